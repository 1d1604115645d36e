/**
 * Runs Eclipse paho's interoperability suite for MQTT 3.1.1 (eclipse/paho.mqtt.testing, interoperability/client_test.py) against the
 * edge's MQTT broker. The suite is not part of this repository: give its folder by `--paho DIR` or PAHO_TESTING, and Python by
 * `--python FILE` or PYTHON. Exits 1 where a test fails, 0 where all pass or the suite can't be run here, which is said.
 */

import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import pino from 'pino'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { startEdge } from '../../edge/agent.ts'

/** Nothing listens there: the edge serves MQTT without its hub. */
const NO_HUB = 'ws://127.0.0.1:9'
/** The suite takes about a minute; one that hangs is a failure. */
const TIME_LIMIT_MS = 240_000

/**
 * The suite sets its globals in its main block, whose option for the topic that may not be subscribed to has no effect; so they are set here.
 * The edge refuses subscriptions below $SYS. One line a test: name, outcome.
 */
const RUN_SUITE = `
import sys, unittest, logging
sys.path.insert(0, sys.argv[1])
import client_test as suite
suite.host, suite.port = sys.argv[2], int(sys.argv[3])
suite.topics = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
suite.wildtopics = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
suite.nosubscribe_topics = ("$SYS/nosubscribe",)
logging.getLogger().setLevel(logging.ERROR)

class Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        print("RUN", test.id().split(".")[-1], flush=True)
    def addSuccess(self, test):
        print("PASS", test.id().split(".")[-1], flush=True)
    def addFailure(self, test, error):
        super().addFailure(test, error)
        print("FAIL", test.id().split(".")[-1], flush=True)
    def addError(self, test, error):
        super().addError(test, error)
        print("FAIL", test.id().split(".")[-1], self._exc_info_to_string(error, test).replace("\\n", " | "), flush=True)

result = Result()
names = unittest.TestLoader().getTestCaseNames(suite.Test) + ["will_message_test"]
unittest.TestSuite(suite.Test(name) for name in names).run(result)
sys.exit(0 if result.wasSuccessful() else 1)
`

const { values } = parseArgs({
  options: { paho: { type: 'string' }, python: { type: 'string' }, verbose: { type: 'boolean' } },
})

function suiteFolder(): string | null {
  const given = values.paho ?? process.env.PAHO_TESTING
  if (given === undefined) return null
  return (
    [given, join(given, 'interoperability')].find(folder => existsSync(join(folder, 'client_test.py'))) ??
    null
  )
}

function pythonCommand(): string | null {
  const given = values.python ?? process.env.PYTHON
  const candidates = given === undefined ? ['python3', 'python'] : [given]
  return candidates.find(name => spawnSync(name, ['--version']).status === 0) ?? null
}

async function runSuite(python: string, folder: string): Promise<boolean> {
  const data = await mkdtemp(join(tmpdir(), 'tributary-interop-'))
  const config = defaultEdgeConfig({ data, hub: NO_HUB, http: null, mqtt: { listen: '127.0.0.1:0' } })
  const edge = await startEdge(
    config,
    nodeEnv(),
    pino({ level: values.verbose ? 'info' : 'silent' }, pino.destination(2)),
  )
  const child = spawn(python, ['-c', RUN_SUITE, folder, '127.0.0.1', String(edge.mqttAddress?.port)], {
    stdio: ['ignore', 'pipe', values.verbose ? 'inherit' : 'ignore'],
    timeout: TIME_LIMIT_MS,
  })
  const exited = new Promise<number | null>(resolve => child.once('exit', code => resolve(code)))
  let passed = 0
  let failed = 0
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith('PASS ')) passed++
    else if (line.startsWith('FAIL ')) failed++
    else if (!values.verbose) continue
    console.log(`  ${line}`)
  }
  const code = await exited
  await edge.close()
  await rm(data, { recursive: true, force: true })
  console.log(`paho client_test.py: ${passed} of ${passed + failed} passed`)
  return code === 0 && failed === 0 && passed > 0
}

const folder = suiteFolder()
const python = pythonCommand()
if (folder === null) {
  console.log(
    'skipped: paho client_test.py (give the folder of eclipse/paho.mqtt.testing by --paho DIR or PAHO_TESTING)',
  )
} else if (python === null) {
  console.log('skipped: paho client_test.py (no Python; give one by --python FILE or PYTHON)')
} else {
  process.exitCode = (await runSuite(python, folder)) ? 0 : 1
}
