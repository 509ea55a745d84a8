// States of runs and of nodes: in words, and the letter that a node bears beside its colour.

export const RUN_STATES = {
  running: "Running",
  settled: "Settled",
  unsettled: "Not settled",
  interrupted: "Interrupted",
  failed: "Failed",
  unreadable: "Unreadable",
};

/** The states of a node in the order of a legend: the letter, and what it means. */
export const NODE_STATES = {
  starting: ["·", "starts"],
  online: ["–", "is connected"],
  asked: ["?", "is asked"],
  answered: ["✓", "has answered"],
  settled: ["●", "has settled"],
  late: ["L", "is late, asked again"],
  held: ["H", "is held: counts with its last answer"],
  excluded: ["E", "is left out"],
  quarantined: ["Q", "is in quarantine"],
  stalled: ["‖", "stands still"],
  offline: ["O", "is offline"],
  crashed: ["✕", "has crashed"],
  left: ["·", "has left"],
};
