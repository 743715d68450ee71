// The page of the service: sends one file, shows the answer. No other address is ever contacted.

const byId = (id) => document.getElementById(id);
const VERDICTS = {
  positive: "Positive",
  negative: "Negative",
  indeterminate: "Indeterminate",
  insufficient_quality: "Not assessable: insufficient quality",
  out_of_scope: "Not assessable: outside what this model was made for",
};
const STATES = { present: "present", uncertain: "uncertain", absent: "absent", not_assessed: "not assessed" };
const SIDES = { L: "left", R: "right", B: "both", U: "unknown" };
let model = null;
let local = "";
let maps = [];

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const words = (name) => name.replaceAll("_", " ");
const percent = (value) => (value === null ? "not assessed" : `${(100 * value).toFixed(1)} %`);

function rows(pairs) {
  return pairs.flatMap(([term, value]) => [
    element("dt", { textContent: term }),
    element("dd", {}, value instanceof Node ? value : String(value)),
  ]);
}

const digest = (text) => element("span", { className: "digest", textContent: text });

// ---- who asks: a service that wants a key answers 401; the key stays in this page's memory

let key = "";

async function ask(address, options = {}) {
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const answer = await fetch(address, { ...options, headers });
  if (answer.status !== 401) return answer;
  key = (window.prompt("This service asks for an API key.") ?? "").trim();
  return key ? ask(address, options) : answer;
}

// ---- the model

async function introduce() {
  model = await (await ask("/v1/model")).json();
  byId("model-name").textContent = model.version ? `${model.name} ${model.version}` : model.name;
  document.title = `${model.name}: hilum`;
  byId("intended").textContent = model.intended_use;
  const accept = model.contract.accept;
  const limit = Math.round(model.max_body_bytes / 2 ** 20);
  const kinds = accept.formats.filter((kind) => kind !== "array").map((kind) => kind.toUpperCase());
  byId("accepts").textContent = `${kinds.join(", ")}; up to ${limit} MiB`;
  const points = model.operating_points.map((point) =>
    element("div", {}, `${words(point.label)}: positive from ${percent(point.high)}` +
      (point.low < point.high ? `, negative below ${percent(point.low)}` : "") +
      (point.rule === "none"
        ? " (unproven: the calibration images are all of one class)"
        : ` (${words(point.rule)}; sensitivity ${percent(point.sensitivity)}, specificity ` +
          `${percent(point.specificity)} on ${point.images} calibration images)`)));
  const measured = model.evaluation === null
    ? "not measured"
    : element("div", {}, ...Object.entries(model.evaluation.statistics)
      .filter(([, interval]) => interval.value !== null)
      .map(([name, interval]) => element("div", {}, `${words(name)}: ${interval.value.toFixed(3)}` +
        (interval.low === null ? "" : ` (${interval.low.toFixed(3)} to ${interval.high.toFixed(3)})`))));
  byId("about").replaceChildren(...rows([
    ["Data set", model.dataset_name],
    ["Network", `${model.backbone}, ${model.parameters.toLocaleString("en")} parameters`],
    ["Operating points", element("div", {}, ...points)],
    ["Test split", measured],
    ["Package", digest(model.package_sha256)],
    ["Contract", element("div", {}, `${model.contract.name} `, digest(model.contract_sha256))],
    ...model.notes.map((note) => ["Note", note]),
  ]));
}

async function watch() {
  const badge = byId("model-state");
  try {
    const answer = await fetch("/readyz");
    const problem = answer.ok ? null : await answer.json();
    badge.textContent = answer.ok ? "ready" : problem.detail;
    badge.classList.toggle("ready", answer.ok);
  } catch {
    badge.textContent = "no connection to the service";
    badge.classList.remove("ready");
  }
  setTimeout(watch, badge.classList.contains("ready") ? 15000 : 1000);
}

// ---- one image, or those of one patient

async function score(files) {
  const place = byId("answer");
  const several = files.length > 1;
  place.setAttribute("aria-busy", "true");
  const doing = several ? `Scoring ${files.length} images of one patient` : "Scoring the image";
  place.replaceChildren(element("p", { className: "working", textContent: doing }));
  showLocal(files[0]);
  try {
    const form = new FormData();
    for (const file of files) form.append("file", file, "image");
    const answer = await ask(`/v1/scores?evidence=${several ? "png" : "true"}`, several
      ? { method: "POST", body: form }
      : { method: "POST", body: files[0], headers: { "Content-Type": "application/octet-stream" } });
    const tree = await answer.json();
    place.replaceChildren(...(!answer.ok ? refused(tree) : several ? patient(tree, files) : scored(tree)));
    if (answer.ok) showEvidence(several ? tree.images[0] : tree);
  } catch {
    place.replaceChildren(...refused({
      title: "no answer", detail: "The service could not be reached, or stopped reading the file.", code: "",
    }));
  }
  place.setAttribute("aria-busy", "false");
}

function showLocal(file) {
  if (local) URL.revokeObjectURL(local);
  local = URL.createObjectURL(file);
  maps = [];
  const picture = byId("picture");
  // a browser can't draw DICOM: then the service's own picture comes with the evidence
  picture.onerror = () => { local = ""; showPicture(false); };
  picture.onload = () => showPicture(true);
  picture.src = local;
  picture.alt = "The image as sent";
  byId("controls").hidden = true;
  byId("legend").hidden = true;
  byId("caption").hidden = true;
}

function showPicture(there) {
  byId("picture").hidden = !there;
  byId("invitation").hidden = there;
  byId("drop").classList.toggle("filled", there);
}

function showEvidence(tree) {
  maps = tree.evidence.filter((map) => map.overlay_png);
  if (maps.length === 0) return;
  byId("map").replaceChildren(...maps.map((map, index) => element("option", {
    value: index, textContent: labelOf(map, tree), selected: map.label === tree.primary && map.class_index > 0,
  })));
  byId("controls").hidden = false;
  byId("show").checked = true;
  draw();
}

function labelOf(map, tree) {
  const names = Object.keys(tree.probabilities[map.label] ?? {});
  if (names.length <= 2) return words(map.label);
  return `${words(map.label)}: ${names[map.class_index]}${map.or_later ? " or more" : ""}`;
}

function draw() {
  const map = maps[Number(byId("map").value)];
  const shown = byId("show").checked;
  const picture = byId("picture");
  picture.src = shown || !local ? `data:image/png;base64,${map.overlay_png}` : local;
  picture.alt = shown ? `The image with the evidence for ${byId("map").selectedOptions[0].textContent}` : "The image as sent";
  byId("show").disabled = !local;
  byId("legend").hidden = !shown && Boolean(local);
  byId("caption").textContent = "The mean of the map plus a constant is the logit: what is drawn is what " +
    `was added up. Logit ${map.logit.toFixed(3)}.`;
  byId("caption").hidden = false;
}

function verdictOf(tree, otherwise) {
  const finding = tree.findings.find((one) => one.name === tree.primary);
  return element("div", { className: `verdict ${tree.verdict}` },
    element("strong", { textContent: VERDICTS[tree.verdict] ?? tree.verdict }),
    element("span", {}, finding && ["positive", "negative", "indeterminate"].includes(tree.verdict)
      ? `${words(tree.primary)}: ${percent(finding.probability)}, positive from ${percent(tree.threshold)} (operating point ${tree.operating_point})`
      : otherwise));
}

function patient(tree, files) {
  const details = element("div", {}, ...scored(tree.images[0]));
  const choice = element("select", {}, ...tree.images.map((image, index) => element("option", {
    value: index, textContent: `${index + 1}: ${VERDICTS[image.verdict] ?? image.verdict}`,
  })));
  choice.addEventListener("change", () => {
    const index = Number(choice.value);
    showLocal(files[index]);
    showEvidence(tree.images[index]);
    details.replaceChildren(...scored(tree.images[index]));
  });
  return [
    verdictOf(tree, "A side could not be judged."),
    element("h3", { textContent: "Patient" }),
    findingsTable(tree),
    element("dl", {}, ...rows(tree.sides.map((side) => [
      `Side: ${SIDES[side.laterality]}`,
      `${VERDICTS[side.verdict] ?? side.verdict}; image ${side.images.map((index) => index + 1).join(", ")}`,
    ]))),
    element("label", { className: "one-of" }, "Image ", choice),
    details,
  ];
}

function scored(tree) {
  return [
    verdictOf(tree, [...tree.quality.reasons, ...(tree.scope?.reasons ?? [])].join("; ")),
    element("h3", { textContent: "Findings" }),
    findingsTable(tree),
    ...Object.entries(tree.probabilities).filter(([, classes]) => Object.keys(classes).length > 2)
      .flatMap(([label, classes]) => [element("h3", { textContent: words(label) }), classesTable(classes)]),
    element("h3", { textContent: "Image" }),
    element("dl", {}, ...rows([
      ["Format", `${tree.image.format.toUpperCase()}, ${tree.image.columns} × ${tree.image.rows} px` +
        (tree.image.modality ? `, ${tree.image.modality}` : "")],
      ["Laterality", SIDES[tree.image.laterality]],
      ["Quality", tree.quality.sufficient ? "sufficient" : `insufficient: ${tree.quality.reasons.join("; ")}`],
      ...(tree.scope === null || tree.scope.distance === null ? [] : [["Distance to the model's own images",
        `${tree.scope.distance.toFixed(2)}; outside from ${tree.scope.limit.toFixed(2)}`]]),
      ...tree.image.warnings.map((warning) => ["Warning", warning]),
      ["File", digest(tree.image.source_sha256)],
      ["Prepared", digest(tree.image.prepared_sha256)],
      ["Package", digest(tree.model.package_sha256)],
      ["Contract", digest(tree.model.contract_sha256)],
      ["Runtime", tree.model.runtime],
    ])),
  ];
}

function scale(value, marks) {
  const bar = element("i");
  bar.style.width = `${100 * value}%`;
  const drawn = marks.map((mark) => {
    const tick = element("b");
    tick.style.left = `calc(${100 * mark}% - 1px)`;
    return tick;
  });
  const made = element("div", { className: "scale" }, bar, ...drawn);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function table(heads, lines) {
  return element("table", {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col", textContent: head })))),
    element("tbody", {}, ...lines));
}

function findingsTable(tree) {
  return table(["Finding", "Probability", "0 to 100 %; the mark is the threshold", "State"],
    tree.findings.map((one) => element("tr", {},
      element("th", { scope: "row", textContent: words(one.name) }),
      element("td", { className: "number", textContent: percent(one.probability) }),
      element("td", {}, one.probability === null ? "" : scale(one.probability, one.low < one.high ? [one.low, one.high] : [one.high])),
      element("td", { textContent: STATES[one.state] ?? one.state }))));
}

function classesTable(classes) {
  return table(["Class", "Probability", ""],
    Object.entries(classes).map(([name, value]) => element("tr", {},
      element("th", { scope: "row", textContent: words(name) }),
      element("td", { className: "number", textContent: percent(value) }),
      element("td", {}, scale(value, [])))));
}

function refused(problem) {
  return [
    element("div", { className: "verdict problem" },
      element("strong", { textContent: "Not scored" }),
      element("span", { textContent: problem.detail })),
    element("dl", {}, ...rows([
      ["Kind", problem.title],
      ...(problem.hint ? [["What to do", problem.hint]] : []),
      ...(problem.code ? [["Code", element("a", { href: `/docs#${problem.code}`, textContent: problem.code })]] : []),
      ...(problem.request_id ? [["Request", digest(problem.request_id)]] : []),
    ])),
  ];
}

// ---- hands

byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) score([...event.target.files]);
});
byId("another").addEventListener("click", () => byId("file").click());
byId("map").addEventListener("change", draw);
byId("show").addEventListener("change", draw);
const drop = byId("drop");
drop.addEventListener("click", (event) => { if (drop.classList.contains("filled")) event.preventDefault(); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) score([...event.dataTransfer.files]);
  });
}
introduce();
watch();
