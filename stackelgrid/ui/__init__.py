"""The control room: runs in a browser, and the HTTP interface that the page and scripts use."""
