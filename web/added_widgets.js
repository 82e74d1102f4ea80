// Widgets that the page itself puts on our nodes, such as the preview of a film: kept out of the prompt, and from growing over the
// node below.
import { app } from "../../scripts/app.js"

// The names of the widgets that a node's inputs have; those of a dynamic choice stand behind its own name.
function inputNames(inputs, before = "") {
  return Object.values(inputs ?? {}).flatMap((group) =>
    Object.entries(group ?? {}).flatMap(([name, [, settings]]) => [
      before + name,
      ...(settings?.options ?? []).flatMap((option) => inputNames(option.inputs, `${before}${name}.`)),
    ]),
  )
}

function tame(node, widget) {
  // The host caches a node by all values in its prompt: one more, and the training behind it runs again.
  widget.options ??= {}
  widget.options.serialize = false
  // Once the page has given the widget its layout: at most as high as the node is wide, a portrait film has bars at its sides.
  queueMicrotask(() => {
    const layout = widget.computeLayoutSize?.bind(widget)
    if (!layout) return
    widget.computeLayoutSize = () => {
      const size = layout(node)
      return { ...size, minHeight: Math.min(size.minHeight, node.size[0]) }
    }
  })
}

app.registerExtension({
  name: "spectral_motion.added_widgets",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SMA_")) return
    const { required, optional } = node.constructor.nodeData.input
    const own = new Set(inputNames({ required, optional }))
    const tameOthers = (widget) => own.has(widget.name) || tame(node, widget)
    node.widgets?.forEach(tameOthers)
    const add = node.addCustomWidget
    node.addCustomWidget = function () {
      const widget = add.apply(this, arguments)
      tameOthers(widget)
      return widget
    }
  },
})
