// The HTTP interface of the server.

const ROOT = "/api/v1/";
const AGAIN_MS = 2000;

/** An answer of the server that is an error; `key` is the key of the request that is wrong. */
export class ApiError extends Error {
  constructor(status, message, key) {
    super(message);
    this.status = status;
    this.key = key;
  }
}

/** The address of a run below the interface. */
export function locate(run, ...rest) {
  return [
    "runs",
    encodeURIComponent(run),
    ...rest.map((each) => each.split("/").map(encodeURIComponent).join("/")),
  ].join("/");
}

/** The address of a file of a run, as a link has it. */
export function locateFile(run, name, download = false) {
  return ROOT + locate(run, "files", name) + (download ? "?download=1" : "");
}

export const get = (path) => request("GET", path);
export const post = (path, body) => request("POST", path, body);
export const remove = (path) => request("DELETE", path);

async function request(method, path, body) {
  const options = { method, credentials: "same-origin" };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(ROOT + path, options);
  } catch {
    throw new ApiError(0, "The server does not answer. Is stackelgrid ui still running?");
  }
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  const content = isJson ? await response.json() : await response.text();
  if (!response.ok)
    throw new ApiError(response.status, content.message ?? `The server answers ${response.status}.`, content.key);
  return content;
}

/**
 * Follow the events of a run to its end. After a break it goes on with the event after the last one.
 *
 * `onBreak(true)` says that the connection is lost, `onBreak(false)` that it is back. Gives a function that ends it.
 */
export function follow(run, onEvent, onBreak) {
  let last = 0;
  let source = null;
  let timer = 0;
  const stop = () => {
    clearTimeout(timer);
    source.close();
  };
  const open = () => {
    source = new EventSource(`${ROOT}${locate(run, "events")}?after=${last}`);
    source.onopen = () => onBreak(false);
    source.onmessage = (message) => {
      last = Number(message.lastEventId);
      const event = JSON.parse(message.data);
      if (event.type === "end") stop();
      onEvent(event);
    };
    source.onerror = () => {
      onBreak(true);
      // A browser tries again by itself, but not after an answer that is no stream.
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(open, AGAIN_MS);
    };
  };
  open();
  return stop;
}
