// Keys go to the dashboard from the start; textual.js, whose handler comes first, waits for a click.
addEventListener("load", () => document.querySelector(".xterm-helper-textarea").focus());
