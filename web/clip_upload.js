// The upload of Load Motion Clip takes every film that the node reads. The page's own offers mp4 and webm, and refuses files that the
// browser does not know as videos, such as gif, mkv or mxf.
import { app } from "../../scripts/app.js"

const NODE = "SMA_LoadMotionClip"

// Ends of file names, as the server's reader knows them.
const suffixesOf = (node) => node.constructor.nodeData.input.required.file[1].clip_suffixes

function isClip(node, file) {
  const name = file.name.toLowerCase()
  return suffixesOf(node).some((suffix) => name.endsWith(suffix))
}

// The page uploads what calls itself a video; its contents stay as they are.
const asVideo = (file) => (file.type.startsWith("video/") ? file : new File([file], file.name, { type: "video/mp4" }))

function upload(node, files) {
  const clips = Array.from(files ?? []).filter((file) => isClip(node, file))
  return clips.length > 0 && node.pasteFiles(clips.slice(0, 1).map(asVideo))
}

function openPicker(node) {
  const input = document.createElement("input")
  input.type = "file"
  input.accept = suffixesOf(node).join(",")
  input.onchange = () => upload(node, input.files)
  input.click()
}

// In Nodes 2.0 the page draws the file input itself: what it accepts is set before it can be opened.
function widen() {
  for (const input of document.querySelectorAll("[data-node-id] input[type=file]")) {
    const node = app.canvas.graph?.getNodeById(input.closest("[data-node-id]").dataset.nodeId)
    if (node?.comfyClass === NODE) input.accept = suffixesOf(node).join(",")
  }
}

app.registerExtension({
  name: "spectral_motion.clip_upload",
  setup() {
    for (const event of ["pointerdown", "focusin"]) document.addEventListener(event, widen, { capture: true })
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE || !node.pasteFiles) return
    const button = node.widgets?.find((widget) => widget.type === "button" && widget.name === "upload")
    if (button) button.callback = () => openPicker(node)
    const drop = node.onDragDrop
    node.onDragDrop = async function (event) {
      return upload(node, event.dataTransfer?.files) || drop?.apply(this, arguments)
    }
  },
})
