
// Calls one function with arguments read as JSON from standard input and writes what it returns as the last line.
;((written, stringify, exit) => {
  const answer = ENTRY_POINT(...JSON.parse(require("fs").readFileSync(0, "utf8")));
  const plain = (name, value) => {
    if (value instanceof Set) return [...value];
    if (value instanceof Map) return Object.fromEntries(value);
    if (typeof value === "bigint") return Number(value);
    return value;
  };
  written("\n" + stringify(answer === undefined ? null : answer, plain) + "\n");
  exit(0);
})((text) => require("fs").writeSync(1, text), JSON.stringify, process.exit.bind(process));
