"""Attacks on the privacy of homes: published ideas as code, measured at each level of `privacy`.

Each attack is a module. It gets what the adversary of a level sees (`views`), says what it believes of a home, and is
measured against what the home keeps to itself (`targets`), beside a guess of sum/n (`findings`). `suite` plays them all
against groups of homes drawn from a scenario, `page` writes their table into docs/privacy.md. Equation tags are those
of docs/games/user_oriented.md.
"""
