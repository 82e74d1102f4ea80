// Shows on a node what it reported and warned of, as text that stays: during a run, after it, after cancel and error, and after a reload.
// The server keeps the last report of every node (nodes/host/kept_reports.py); the page keeps none.
import { app } from "../../scripts/app.js"
import { api } from "../../scripts/api.js"

const EVENT = "spectral_motion.report"
const WIDGET = "spectral_motion_report"
const LINE = 15 // px
const MARGIN = 10 // px; the classic renderer leaves so much free round an element
const MOST = 240 // px; a longer report scrolls, so that a node never grows far over its neighbours

const style = document.createElement("style")
style.textContent = `
.spectral-motion-report { box-sizing: border-box; max-height: ${MOST}px; overflow-y: auto; padding: 3px 6px; border-radius: 4px;
  background: rgba(0, 0, 0, 0.22); color: #d4d8dd; font: 11px/${LINE}px sans-serif; overflow-wrap: anywhere; user-select: text; }
.spectral-motion-report:empty { display: none !important; } /* a new run has begun: its place is kept, or the node would jump */
.spectral-motion-report.outdated { opacity: 0.45; }
.spectral-motion-report .warning { color: #ffc65c; }
.spectral-motion-report .warning::before { content: "⚠ "; }
`
document.head.append(style)

// The node behind an execution id: "7", or "1:7" for node 7 of the subgraph that node 1 stands for.
function nodeAt(id) {
  let graph = app.rootGraph
  let node
  for (const part of id.split(":")) {
    node = graph?.getNodeById(Number(part))
    graph = node?.subgraph
  }
  return node
}

const entries = new WeakMap() // element of a report -> the entry that stands in it

function widgetOf(node) {
  return node.widgets?.find((widget) => widget.name === WIDGET)
}

function addWidget(node) {
  const element = document.createElement("div")
  element.className = "spectral-motion-report"
  // About as high as its text: an element that is not drawn yet has no height to ask for.
  const height = () => {
    const perLine = Math.max(20, (node.size[0] - 46) / 6)
    const lines = [...element.children].reduce((sum, line) => sum + Math.ceil(line.textContent.length / perLine), 0)
    return lines ? Math.min(MOST, lines * LINE + 6) + 2 * MARGIN : 0
  }
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, {
    serialize: false, // not in the prompt, where it would make the node another
    hideOnZoom: false,
    getMinHeight: height,
    getMaxHeight: height,
  })
  widget.serialize = false // not in the workflow
  // The page saves widget values by position and leaves a gap for one that is not saved, which it does not expect when it loads them.
  const { onSerialize } = node
  node.onSerialize = function (saved) {
    onSerialize?.call(this, saved)
    const index = this.widgets?.findIndex((each) => each.name === WIDGET) ?? -1
    if (index >= 0) saved.widgets_values?.splice(index, 1)
  }
  return widget
}

function show(entry) {
  const node = nodeAt(entry.node)
  if (node?.comfyClass !== entry.type) return // the graph was changed since
  const { report, warnings } = entry
  if (!report.length && !warnings.length && !widgetOf(node)) return
  const { element } = widgetOf(node) ?? addWidget(node)
  const lines = [...warnings.map((text) => [text, "warning"]), ...report.map((text) => [text, "line"])].map(([text, kind]) => {
    const line = document.createElement("div")
    line.className = kind
    line.textContent = text
    return line
  })
  element.replaceChildren(...lines)
  entries.set(element, entry)
  fade(element)
  if (!window.LiteGraph.vueNodesMode) {
    // The classic renderer makes room only when it draws the node again, and after a reload it may not.
    const [, height] = node.computeSize()
    if (node.size[1] < height) node.setSize([node.size[0], height])
  }
  node.graph?.setDirtyCanvas(true, true)
}

// Values that the page itself changes after each run, such as a random seed.
const changesItself = (widget) => widget.linkedWidgets?.some(({ value }) => ["randomize", "increment", "decrement"].includes(value))

// A report pales as soon as its node was given another film or other values: it speaks of the last run.
function fade(element) {
  const outdated = !isUnchanged(entries.get(element), changesItself)
  element.classList.toggle("outdated", outdated)
  element.title = outdated ? "Of the last run: values of this node were changed since." : ""
}

// Whether a node still has the values it had when it reported; a template that is opened anew has not.
function isUnchanged(entry, passOver = () => false) {
  const widgets = nodeAt(entry.node)?.widgets ?? []
  return Object.entries(entry.values).every(([name, value]) => {
    const widget = widgets.find((widget) => widget.name === name)
    return !widget || passOver(widget) || JSON.stringify(widget.value) === JSON.stringify(value)
  })
}

// ended: id of the prompt that this page has just seen ending; what that one reported is shown whatever was changed meanwhile.
async function showKept(ended) {
  const workflow = app.rootGraph?.id
  if (!workflow) return
  const response = await api.fetchApi(`/spectral_motion/reports/${encodeURIComponent(workflow)}`)
  if (!response.ok) return
  const reports = await response.json()
  if (app.rootGraph.id !== workflow) return
  for (const entry of Object.values(reports)) {
    show(entry.prompt === ended || isUnchanged(entry) ? entry : { ...entry, report: [], warnings: [] })
  }
}

let started

app.registerExtension({
  name: "spectral_motion.reports",
  setup() {
    // Every page hears of every run; only the one that shows its workflow has the nodes.
    api.addEventListener(EVENT, ({ detail }) => {
      if (detail.workflow === app.rootGraph?.id) show(detail)
    })
    api.addEventListener("execution_start", ({ detail }) => {
      started = detail.prompt_id
    })
    // At the end of a run the server knows what nodes from the cache had reported.
    api.addEventListener("executing", ({ detail }) => {
      if (detail === null) showKept(started)
    })
    api.addEventListener("graphChanged", () => {
      for (const element of document.querySelectorAll(".spectral-motion-report")) if (entries.has(element)) fade(element)
    })
    api.addEventListener("reconnected", () => showKept(started))
  },
  afterConfigureGraph: () => showKept(),
})
