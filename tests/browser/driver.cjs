// Drives the host's real web page in Chromium. Usage: node driver.cjs '<job as JSON>'; prints one line of JSON.
// Every job holds "action", "url", "chromium" and "vue": whether nodes are drawn by Nodes 2.0 or on the classic canvas.
//   tour: opens "templates" of "pack", one after the other, from the page's template browser, and looks at each
//   run: opens "template" and goes through "steps": [node type, widget name, value] sets a widget, "reopen" opens the graph as it
//       stands as if from a file, "reload" reloads the page, "run" presses its button Run
//   upload: opens "template" and sets "widgets" as above, and brings the files of "ways" to Load Motion Clip, {"way": "choose" or
//       "drop", "file": path}; then it runs
//   refresh: opens "template", adds a "node", copies "file" to "into" and presses R: what the list of its "widget" offers
//   convert: the API format of "workflows" (paths of UI files), as the page queues it
//   reports: runs a template, runs it again, cancels a third run and reloads the page, with screenshots in the folder "screenshots";
//       what nodes report after each, see `reports` below
const fs = require("node:fs")
const { chromium } = require("playwright-core") // found through NODE_PATH

const READY = 60_000 // ms; a cold page on a busy two-core machine is slow
const SETTINGS = {
  "Comfy.TutorialCompleted": true, // else the first visit opens the template browser by itself
  "LiteGraph.Canvas.MaximumFps": 5, // the browser draws in software and would take the CPU from the run it watches
  "Comfy.Minimap.Visible": false, // it would cover part of the graph on the screenshot
}

async function openPage(job, problems) {
  const browser = await chromium.launch({
    executablePath: job.chromium,
    args: ["--no-sandbox", "--disable-dev-shm-usage"],
  })
  const page = await browser.newPage({ viewport: { width: 2700, height: 1500 } })
  page.setDefaultTimeout(READY)
  page.on("pageerror", (error) => problems.push(`page error: ${error.stack ?? error}`))
  page.on("console", (message) => {
    if (/Error (loading (extension|workflow template)|calling extension)/.test(message.text())) problems.push(`console: ${message.text()}`)
  })
  const settings = { ...SETTINGS, "Comfy.VueNodes.Enabled": job.vue }
  await page.request.post(`${job.url}/api/settings`, { data: settings })
  page.on("response", (response) => {
    if (opened && response.status() >= 400) problems.push(`${response.status()}: ${response.url()}`)
  })
  await load(page, () => page.goto(job.url))
  return { browser, page }
}

let opened = false // until then the page asks for settings and files of the user that do not exist yet

async function load(page, go) {
  opened = false
  await go()
  await page.waitForFunction(() => window.app?.extensionManager && window.app?.rootGraph)
  await page.locator(".p-blockui-mask").waitFor({ state: "hidden" })
  opened = true
}

async function openTemplate(page, pack, template) {
  for (let tries = 1; ; tries++) {
    await page.locator(".templates-tab-button").click()
    await page.getByRole("button", { name: pack, exact: true }).click()
    await page.getByTestId(`template-workflow-${template}`).click()
    try {
      // Where the template's file is not served, the page stays with the graph it had.
      await page.waitForFunction(
        (name) => window.app.extensionManager.workflow.activeWorkflow?.filename === name,
        template,
        { timeout: 30000 },
      )
      break
    } catch (error) {
      // On a busy machine the gallery may move under the click.
      if (tries === 3) throw error
      await page.keyboard.press("Escape")
    }
  }
  await page.waitForTimeout(1000) // the page looks for missing nodes, models and media after it has drawn the graph
}

// What the page itself complains about, and node types it does not know.
async function complaints(page) {
  const found = await page.evaluate(() => {
    const known = window.LiteGraph.registered_node_types
    const missing = window.app.rootGraph.nodes.filter((node) => !(node.type in known))
    return missing.map((node) => `missing node: ${node.type}`)
  })
  for (const id of ["missing-node-card", "error-overlay", "error-dialog", "error-loading-video"]) {
    for (const text of await page.getByTestId(id).allInnerTexts()) found.push(`${id}: ${text}`)
  }
  return found
}

const prompt = (page) => page.evaluate(async () => (await window.app.graphToPrompt()).output)
const nodeTypes = (page) => page.evaluate(() => window.app.rootGraph.nodes.map((node) => node.type))

// Whatever a run can show on a node: films, pictures, sound and text.
async function showPreviews(page) {
  await page.evaluate(() => {
    const { api } = window.comfyAPI.api
    const film = window.app.rootGraph.nodes.find((node) => node.type === "SMA_LoadMotionClip").widgets[0].value
    const file = { filename: film, subfolder: "", type: "input" }
    const outputs = [
      { images: [file], animated: [true] },
      { audio: [file], text: ["a line"], report: ["a line"], warnings: ["a line"] },
    ]
    for (const node of window.app.rootGraph.nodes.filter((node) => node.type.startsWith("SMA_"))) {
      for (const output of outputs) {
        const detail = { node: String(node.id), display_node: String(node.id), prompt_id: "none", output }
        api.dispatchCustomEvent("executed", detail)
      }
    }
  })
}

// Width and height of a film on a node, once it has been fetched; null where none comes.
async function shownFilm(page) {
  const find = () => {
    const film = [...document.querySelectorAll("video")].find((video) => video.videoWidth)
    return film && [film.videoWidth, film.videoHeight]
  }
  const film = await page.waitForFunction(find, null, { timeout: 15_000 }).catch(() => null)
  return film && film.jsonValue()
}

async function look(page, screenshot) {
  const film = await shownFilm(page)
  if (screenshot) await page.screenshot({ path: screenshot })
  await showPreviews(page)
  await page.waitForTimeout(1000)
  return {
    nodes: await nodeTypes(page),
    film,
    models: await page.evaluate(() => {
      const { pendingWarnings } = window.app.extensionManager.workflow.activeWorkflow
      return (pendingWarnings?.missingModelCandidates ?? []).map(({ name, directory, url }) => ({ name, directory, url }))
    }),
    prompt: await prompt(page),
  }
}

async function tour(job, page, problems) {
  const sights = {}
  for (const template of job.templates) {
    problems.length = 0
    await openTemplate(page, job.pack, template)
    const screenshot = job.screenshots && `${job.screenshots}/${template}${job.vue ? "-2.0" : ""}.png`
    sights[template] = await look(page, screenshot)
    sights[template].problems = [...problems, ...(await complaints(page))]
  }
  problems.length = 0
  return { sights }
}

async function queueAndWait(page, timeout) {
  const refused = page
    .waitForResponse((response) => response.url().endsWith("/api/prompt") && response.status() !== 200, { timeout })
    .then(async (response) => ({ event: "refused", detail: await response.json() }))
  refused.catch(() => {}) // nothing refused: the wait just times out
  await page.evaluate(() => {
    const { api } = window.comfyAPI.api
    const cached = []
    api.addEventListener("execution_cached", ({ detail }) => cached.push(...detail.nodes))
    window.promptEnded = new Promise((resolve) => {
      for (const event of ["execution_success", "execution_error", "execution_interrupted"]) {
        api.addEventListener(event, ({ detail }) => resolve({ event, detail, cached }))
      }
    })
  })
  await page.getByTestId("queue-button").click()
  const ended = page.evaluate(() => window.promptEnded)
  ended.catch(() => {}) // the page closes first where the prompt is refused or late
  const late = new Promise((resolve) => setTimeout(resolve, timeout, { event: "timeout", detail: `${timeout} ms` }))
  return Promise.race([ended, refused, late])
}

const boxes = (page) =>
  page.evaluate(() => window.app.rootGraph.nodes.map((node) => [node.type, ...node.pos, ...node.size]))

const setWidget = (page, widget) =>
  page.evaluate(([type, name, value]) => {
    const node = window.app.rootGraph.nodes.find((node) => node.type === type)
    const widget = node.widgets.find((widget) => widget.name === name)
    widget.value = value
    widget.callback?.(value)
  }, widget)

async function run(job, page, problems) {
  await openTemplate(page, job.pack, job.template)
  problems.push(...(await complaints(page)))
  const runs = []
  for (const step of job.steps) {
    if (step === "reload") {
      await page.waitForTimeout(2000) // the page writes its draft of the graph with a delay
      await load(page, () => page.reload())
      await page.waitForTimeout(2000) // films load after the graph
    } else if (step === "reopen") {
      await page.evaluate(() => window.app.loadGraphData(window.app.rootGraph.serialize(), true, true, "reopened"))
      await page.waitForTimeout(3000) // films load after the graph
    } else if (step === "run") {
      const { event, detail, cached } = await queueAndWait(page, job.timeout * 1000)
      await page.waitForTimeout(1500) // previews load after the prompt has ended
      runs.push({ event, detail, cached: await page.evaluate(typesOf, cached ?? []) })
      if (event !== "execution_success") break
    } else await setWidget(page, step)
  }
  if (job.steps.length) problems.push(...(await complaints(page)))
  const last = runs.at(-1) ?? { event: "opened", detail: null }
  return { ...last, runs, nodes: await nodeTypes(page), boxes: await boxes(page) }
}

const typesOf = (ids) => ids.map((id) => window.app.rootGraph.getNodeById(id).type)

// What each way offers and which file is chosen afterwards; then the graph runs with the last one.
async function upload(job, page, problems) {
  await openTemplate(page, job.pack, job.template)
  for (const widget of job.widgets) await setWidget(page, widget)
  const uploads = []
  for (const { way, file } of job.ways) {
    const done = page.waitForResponse((response) => response.url().includes("/upload/image"))
    const accept = way === "drop" ? await drop(page, file) : await choose(page, file, job.vue)
    const status = (await done).status()
    const name = file.split("/").at(-1)
    const chosen = () => page.evaluate((type) => window.app.rootGraph.nodes.find((node) => node.type === type).widgets[0].value, CLIP)
    for (let wait = 0; wait < 50 && (await chosen()) !== name; wait++) await page.waitForTimeout(100)
    await page.waitForTimeout(1500) // the film is fetched after it was chosen
    uploads.push({ accept, status, chosen: await chosen(), film: await shownFilm(page) })
  }
  problems.push(...(await complaints(page)))
  const { event, detail } = await queueAndWait(page, job.timeout * 1000)
  return { uploads, event, detail }
}

const CLIP = "SMA_LoadMotionClip"

// Presses the node's upload button and chooses a file; returns what the browser's dialogue offers.
async function choose(page, file, vue) {
  const opened = page.waitForEvent("filechooser")
  if (vue) {
    const id = await page.evaluate((type) => window.app.rootGraph.nodes.find((node) => node.type === type).id, CLIP)
    await page.locator(`[data-node-id="${id}"] label:has(input[type=file])`).click({ force: true })
  } else {
    const place = await page.evaluate((type) => {
      const { canvas, rootGraph } = window.app
      const node = rootGraph.nodes.find((node) => node.type === type)
      const button = node.widgets.find((widget) => widget.type === "button")
      const { left, top } = canvas.canvas.getBoundingClientRect()
      const { scale, offset } = canvas.ds
      const x = (node.pos[0] + node.size[0] / 2 + offset[0]) * scale
      return [left + x, top + (node.pos[1] + button.y + 10 + offset[1]) * scale]
    }, CLIP)
    await page.mouse.click(...place)
  }
  const chooser = await opened
  const accept = await chooser.element().evaluate((input) => input.accept)
  await chooser.setFiles(file)
  return accept
}

async function drop(page, file) {
  const bytes = [...fs.readFileSync(file)]
  await page.evaluate(
    ([type, name, bytes]) => {
      const node = window.app.rootGraph.nodes.find((node) => node.type === type)
      const dataTransfer = new DataTransfer()
      dataTransfer.items.add(new File([new Uint8Array(bytes)], name)) // without a type, as browsers give files they do not know
      const event = new DragEvent("drop", { dataTransfer })
      if (!node.onDragOver(event)) throw new Error("the node takes no files")
      node.onDragDrop(event)
    },
    [CLIP, file.split("/").at(-1), bytes],
  )
  return null
}

async function refresh(job, page, problems) {
  await openTemplate(page, job.pack, job.template)
  const id = await page.evaluate((type) => {
    const node = window.LiteGraph.createNode(type)
    window.app.rootGraph.add(node)
    return node.id
  }, job.node)
  const list = () =>
    page.evaluate(([id, name]) => window.app.rootGraph.getNodeById(id).widgets.find((widget) => widget.name === name).options.values, [id, job.widget])
  const found = { before: await list() }
  fs.copyFileSync(job.file, job.into)
  const fetched = page.waitForResponse((response) => response.url().endsWith("/object_info"))
  await page.locator("canvas").first().focus()
  await page.keyboard.press("r")
  await fetched
  await page.waitForTimeout(1000)
  found.after = await list()
  await page.evaluate(
    ([id, name]) => {
      const choice = window.app.rootGraph.getNodeById(id).widgets.find((widget) => widget.name === name)
      const { value } = choice
      for (const each of [choice.options.values.find((other) => other !== value), value]) choice.value = each
    },
    [id, job.widget.split(".")[0]],
  )
  await page.waitForTimeout(200)
  found.unfolded = await list()
  problems.push(...(await complaints(page)))
  return found
}

async function convert(job, page) {
  const prompts = []
  for (const path of job.workflows) {
    const workflow = JSON.parse(fs.readFileSync(path, "utf8"))
    await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, "twin"), workflow)
    prompts.push(await prompt(page))
  }
  return { prompts }
}

async function main() {
  const job = JSON.parse(process.argv[2])
  const problems = []
  const { browser, page } = await openPage(job, problems)
  try {
    const result = await { tour, run, upload, refresh, convert, reports }[job.action](job, page, problems)
    console.log(JSON.stringify({ ...result, problems }))
  } catch (error) {
    throw new Error([error.message, ...problems].join("\n"), { cause: error })
  } finally {
    if (job.screenshot) await page.screenshot({ path: job.screenshot })
    await browser.close()
  }
}

main().then(
  () => process.exit(0), // a wait that lost the race must not keep the process alive
  (error) => {
    console.error(error)
    process.exit(1)
  },
)

// Sets widgets of the nodes of one title, as a user would.
async function setTitled(page, title, values) {
  await page.evaluate(
    ([title, values]) => {
      for (const node of window.app.rootGraph.nodes.filter((node) => node.title === title)) {
        for (const [name, value] of Object.entries(values)) {
          const widget = node.widgets.find((widget) => widget.name === name)
          widget.value = value
          widget.callback?.(value)
        }
      }
    },
    [title, values],
  )
}

// What stands on the nodes: node type -> lines and warnings of its report, and whether they can be seen.
async function shownReports(page) {
  return page.evaluate(() => {
    const found = {}
    for (const node of window.app.rootGraph.nodes) {
      const widget = node.widgets?.find((widget) => widget.name === "spectral_motion_report")
      if (!widget?.element.children.length) continue
      const { element } = widget
      const texts = (kind) => [...element.querySelectorAll(`:scope > .${kind}`)].map((line) => line.textContent)
      const { width, height } = element.getBoundingClientRect()
      const scale = window.app.canvas.ds.scale
      found[node.type] = {
        report: texts("line"),
        warnings: texts("warning"),
        height: height / scale,
        inside: window.LiteGraph.vueNodesMode || widget.y + widget.computedHeight <= node.size[1] + 1,
        seen: element.checkVisibility() && width > 0 && height > 0,
        outdated: element.classList.contains("outdated"),
      }
    }
    return found
  })
}

// What a report must not touch: the values that are saved by position, and the prompt.
async function savedValues(page) {
  return page.evaluate(async () => {
    const values = window.app.rootGraph.serialize().nodes.map((node) => [node.id, node.type, node.widgets_values ?? []])
    const { output } = await window.app.graphToPrompt()
    return { values, inputs: Object.fromEntries(Object.entries(output).map(([id, { inputs }]) => [id, Object.keys(inputs)])) }
  })
}

// The trainer's values as they would be saved while a choice of its own brings one more widget.
async function chooseLayers(page, type) {
  return page.evaluate((type) => {
    const node = window.app.rootGraph.nodes.find((node) => node.type === type)
    const widget = node.widgets.find((widget) => widget.name === "layers")
    const before = widget.value
    widget.value = "regular expression"
    const values = node.serialize().widgets_values
    widget.value = before
    return values
  }, type)
}

async function reports(job, page, problems) {
  try {
    return await runAndRead(job, page, problems)
  } finally {
    // A long run that is left over would hold up the next page's.
    await page.evaluate(() => window.comfyAPI.api.api.interrupt(null))
  }
}

async function runAndRead(job, page, problems) {
  page.setDefaultTimeout(job.timeout * 1000)
  const TRAINER = "SMA_TrainMotionLoRA"
  const seen = {}
  const note = async (moment, where = page) => {
    await where.waitForTimeout(700)
    seen[moment] = await shownReports(where)
    await where.screenshot({ path: `${job.screenshots}/${moment}.png` })
  }
  const trainerSays = (where, text, not = "no such text") =>
    where.waitForFunction(
      ([type, text, not]) => {
        const node = window.app?.rootGraph?.nodes.find((node) => node.type === type)
        const element = node?.widgets?.find((widget) => widget.name === "spectral_motion_report")?.element
        return element?.textContent.includes(text) && !element.textContent.includes(not)
      },
      [TRAINER, text, not],
      { timeout: job.timeout * 1000 },
    )
  await openTemplate(page, job.pack, job.template)
  await setTitled(page, "Train Motion LoRA", { steps: 4, save_every: 0 })
  await setTitled(page, "KSampler", { steps: 2 })
  await setTitled(page, "Training prompt", { text: "red wombat" })
  await note("before")
  const chosen = { without: await chooseLayers(page, TRAINER) }
  const before = await savedValues(page)
  const first = await queueAndWait(page, job.timeout * 1000)
  await trainerSays(page, "Saved output/loras/")
  await note("after")
  await setTitled(page, "KSampler", { seed: 7 })
  const second = await queueAndWait(page, job.timeout * 1000)
  await note("again")
  const after = await savedValues(page)
  chosen.with = await chooseLayers(page, TRAINER)
  await setTitled(page, "Train Motion LoRA", { steps: 5000, seed: 3 })
  await page.mouse.click(1350, 1400) // on the empty canvas: the page looks for changes when the user has done something
  await note("other_values")
  const third = queueAndWait(page, job.timeout * 1000)
  third.catch(() => {}) // where a wait below fails first
  await trainerSays(page, "modules adapted", "Saved")
  const other = await page.context().browser().newPage()
  other.setDefaultTimeout(job.timeout * 1000)
  await other.setViewportSize(page.viewportSize())
  await other.goto(job.url)
  await other.waitForFunction(() => window.app?.extensionManager && window.app?.rootGraph)
  await other.locator(".p-blockui-mask").waitFor({ state: "hidden" })
  const graph = await page.evaluate(() => window.app.rootGraph.serialize())
  await other.evaluate((graph) => window.app.loadGraphData(graph, true, true, "the same"), graph)
  await note("opened_during_the_run", other)
  await page.evaluate(() => window.comfyAPI.api.api.interrupt(null))
  const cancelled = await third
  await trainerSays(page, "Stopped at step")
  await note("cancelled")
  await trainerSays(other, "Stopped at step")
  await other.evaluate((graph) => window.app.loadGraphData(graph, true, true, "another"), { ...graph, id: crypto.randomUUID() })
  await note("another_workflow", other)
  await other.close()
  await load(page, () => page.reload())
  await trainerSays(page, "Stopped at step")
  await note("reloaded")
  await setTitled(page, "Train Motion LoRA", { seed: 4 })
  await page.evaluate(() => window.app.loadGraphData(window.app.rootGraph.serialize(), true, true, "changed"))
  await note("changed")
  problems.push(...(await complaints(page)))
  return { events: [first, second, cancelled].map(({ event }) => event), seen, before, after, chosen }
}
