// Price and load as they bend round by round.

import { makeTable } from "./dom.js";

/** Shows the rounds of a run in `element`; `tree` is the run's first event. */
export class RoundCharts {
  constructor(element, tree) {
    this.element = element;
    this.tree = tree;
    this.rounds = [];
  }

  /** Add a finished round. */
  round(event) {
    this.rounds.push([event.round, event.residual, event.answered]);
    this.element.replaceChildren(makeTable("Rounds", ["Round", "Residual", "Answered"], this.rounds));
  }

  /** End what goes on behind the charts. */
  close() {}
}
