// R brings new files into the lists that a choice of a node unfolds, such as the LoRAs behind the source of Load Motion LoRA. The page
// itself renews the lists that stand in the node from the start, and no others.
import { app } from "../../scripts/app.js"

let latest = {} // node type -> its definition, once the page was refreshed

// What the lists behind the choices of a node offer: [name of the widget, values], for the choices that stand now.
function unfolded(node, inputs, before = "") {
  return Object.values(inputs ?? {}).flatMap((group) =>
    Object.entries(group ?? {}).flatMap(([name, [type, settings]]) => {
      if (type === "COMBO") return before ? [[before + name, settings.options]] : []
      if (type !== "COMFY_DYNAMICCOMBO_V3") return []
      const choice = node.widgets?.find((widget) => widget.name === before + name)?.value
      const option = settings.options.find(({ key }) => key === choice)
      return unfolded(node, option?.inputs, `${before}${name}.`)
    }),
  )
}

function renew(node) {
  const { required, optional } = latest[node.comfyClass]?.input ?? {}
  for (const [name, values] of unfolded(node, { required, optional })) {
    const widget = node.widgets.find((widget) => widget.name === name)
    if (widget) widget.options.values = values
  }
}

app.registerExtension({
  name: "spectral_motion.refreshed_lists",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SMA_")) return
    const add = node.addCustomWidget
    node.addCustomWidget = function () {
      const widget = add.apply(this, arguments)
      queueMicrotask(() => renew(node)) // a choice unfolds its inputs as the page knew them when the node was made
      return widget
    }
  },
  refreshComboInNodes(definitions) {
    latest = definitions
    for (const graph of [app.rootGraph, ...(app.rootGraph?.subgraphs?.values() ?? [])]) {
      for (const node of graph?.nodes ?? []) if (node.comfyClass?.startsWith("SMA_")) renew(node)
    }
  },
})
