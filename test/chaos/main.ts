/** `npm run chaos -- [--nodes N [--part rolling|grow|rounds]] [--rounds N] [--seed S]`: real processes under kill -9, cut connections and takeovers; several nodes also stopped, cut off and full. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { stringify } from 'yaml'
import { connect } from '../../common/client.ts'
import { nodeEnv } from '../../common/env-node.ts'
import type { Child } from '../../demo/child.ts'
import { createChild, freePorts } from '../../demo/child.ts'
import { seededRng } from '../rng.ts'
import { PARTS, runCluster } from './cluster.ts'
import { checkDurability } from './durability.ts'
import { splitMqtt, webSocketSplitter } from './frames.ts'
import type { CuttingProxy } from './proxy.ts'
import { startProxy } from './proxy.ts'
import type { Stage } from './round.ts'
import { killAtRandom } from './round.ts'
import { runRounds, stopAll, verifyLogs } from './rounds.ts'
import { checkFailingSync, checkFullFilesystem } from './sick-disk.ts'

const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '1' },
    /** Of a run with several nodes; all of them by default. */
    part: { type: 'string', multiple: true },
    rounds: { type: 'string' },
    seed: { type: 'string' },
  },
})
const nodes = Number(values.nodes)
const parts = values.part ?? [...PARTS]
const rounds = Number(values.rounds ?? (nodes === 1 ? 10 : 30))
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed)
const script = resolve(import.meta.dirname, '../../main.ts')

const MQTT_KINDS = new Set(['puback', 'pubrec', 'pubrel', 'pubcomp', 'connack'])
const UPLINK_KINDS = new Set(['welcome', 'start', 'opened', 'run', 'append', 'ack'])

/** One hub and an edge, the edge's way to the hub through a proxy. */
async function createStage(directory: string): Promise<Stage & { hub: Child; uplinkProxy: CuttingProxy }> {
  const rng = seededRng(seed)
  const [hubPort = 0, uplinkPort = 0, mqttPort = 0, proxyPort = 0, edgePort = 0] = await freePorts(5)
  const config = join(directory, 'edge.yaml')
  const rules = [{ match: 'chaos/+/#', topic: 'chaos-{2}' }]
  await writeFile(
    config,
    stringify({ edge: { rules, uplink: { backoffMinMs: '50ms', backoffMaxMs: '500ms' } } }),
  )
  const hub = createChild({
    name: 'hub',
    script,
    args: ['hub', '--data', join(directory, 'hub'), '--http', `127.0.0.1:${hubPort}`, '--log-level', 'warn'],
    readyUrl: `http://127.0.0.1:${hubPort}/readyz`,
    readyTimeoutMs: 30_000,
  })
  const edge = createChild({
    name: 'edge',
    script,
    args: [
      'edge',
      '--config',
      config,
      '--data',
      join(directory, 'edge'),
      '--hub',
      `ws://127.0.0.1:${uplinkPort}`,
      '--mqtt',
      `127.0.0.1:${mqttPort}`,
      '--http',
      `127.0.0.1:${edgePort}`,
      '--log-level',
      'warn',
    ],
    readyUrl: `http://127.0.0.1:${edgePort}/healthz`,
    readyTimeoutMs: 30_000,
  })
  const mqttProxy = await startProxy({
    port: proxyPort,
    targetPort: mqttPort,
    rng,
    splitter: () => splitMqtt,
    kinds: MQTT_KINDS,
  })
  const uplinkProxy = await startProxy({
    port: uplinkPort,
    targetPort: hubPort,
    rng,
    splitter: webSocketSplitter,
    kinds: UPLINK_KINDS,
  })
  await Promise.all([hub.start(), edge.start()])
  return {
    hub,
    edge,
    mqttProxy,
    uplinkProxy,
    harm: rng => killAtRandom(hub, edge, rng),
    client: connect({ hub: `http://127.0.0.1:${hubPort}`, env: nodeEnv() }),
    mqttUrl: `mqtt://127.0.0.1:${proxyPort}`,
    edgeUrl: `http://127.0.0.1:${edgePort}`,
  }
}

async function runAlone(directory: string): Promise<string[]> {
  const problems: string[] = []
  for (const check of [checkDurability, checkFailingSync, checkFullFilesystem]) {
    const outcome = await check(directory, script)
    if (outcome.problems.length === 0) console.log(outcome.summary)
    problems.push(...outcome.problems)
  }
  const stage = await createStage(directory)
  problems.push(...(await runRounds(stage, rounds, seed)))
  console.log(`cuts on the uplink: ${JSON.stringify(stage.uplinkProxy.cuts())}`)
  await stage.client.close()
  problems.push(...(await stopAll([stage.edge, stage.hub])))
  await Promise.all([stage.mqttProxy.close(), stage.uplinkProxy.close()])
  return problems.concat(verifyLogs(script, directory, ['hub', 'edge']))
}

async function main(): Promise<void> {
  const again = `npm run chaos -- --nodes ${nodes} --rounds ${rounds} --seed ${seed}`
  console.log(`chaos: ${nodes} nodes, ${rounds} rounds, seed ${seed} (again: ${again})`)
  const directory = await mkdtemp(join(tmpdir(), 'tributary-chaos-'))
  const run = { script, directory, rounds, seed }
  const problems = await (nodes === 1 ? runAlone(directory) : runCluster(run, nodes, parts))
  for (const problem of problems.slice(0, 50)) console.log(`PROBLEM ${problem}`)
  if (problems.length === 0) await rm(directory, { recursive: true, force: true })
  else console.log(`${problems.length} problems; the directories are kept in ${directory}`)
  console.log(problems.length === 0 ? 'all passed' : `${problems.length} failed`)
  process.exitCode = problems.length === 0 ? 0 : 1
}

await main()
