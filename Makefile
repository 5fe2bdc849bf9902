# placeholder written by the tooling step
