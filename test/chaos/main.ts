/** `npm run chaos -- [--rounds N] [--seed S]`: real processes under kill -9, cut connections and takeovers. */

import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { stringify } from 'yaml'
import { connect } from '../../common/client.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { createChild, freePorts } from '../../demo/child.ts'
import { seededRng } from '../rng.ts'
import { checkDurability } from './durability.ts'
import { splitMqtt, webSocketSplitter } from './frames.ts'
import { startProxy } from './proxy.ts'
import type { Stage } from './round.ts'
import { runRound } from './round.ts'
import { checkFailingSync, checkFullFilesystem } from './sick-disk.ts'

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '10' }, seed: { type: 'string' } },
})
const rounds = Number(values.rounds)
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed)
const script = resolve(import.meta.dirname, '../../main.ts')

const MQTT_KINDS = new Set(['puback', 'pubrec', 'pubrel', 'pubcomp', 'connack'])
const UPLINK_KINDS = new Set(['welcome', 'start', 'opened', 'run', 'append', 'ack'])

async function createStage(directory: string): Promise<Stage> {
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
    client: connect({ hub: `http://127.0.0.1:${hubPort}`, env: nodeEnv() }),
    mqttUrl: `mqtt://127.0.0.1:${proxyPort}`,
    edgeUrl: `http://127.0.0.1:${edgePort}`,
  }
}

/** `tributary log verify` over both directories. */
function verifyLogs(directory: string): string[] {
  return ['hub', 'edge'].flatMap(name => {
    const run = spawnSync(process.execPath, [script, 'log', 'verify', join(directory, name)], {
      encoding: 'utf8',
    })
    return run.status === 0 ? [] : [`log verify ${name} failed: ${run.stdout}${run.stderr}`]
  })
}

async function main(): Promise<void> {
  console.log(
    `chaos: ${rounds} rounds, seed ${seed} (again: npm run chaos -- --rounds ${rounds} --seed ${seed})`,
  )
  const directory = await mkdtemp(join(tmpdir(), 'tributary-chaos-'))
  const problems: string[] = []
  for (const check of [checkDurability, checkFailingSync, checkFullFilesystem]) {
    const outcome = await check(directory, script)
    if (outcome.problems.length === 0) console.log(outcome.summary)
    problems.push(...outcome.problems)
  }
  const stage = await createStage(directory)
  const rng = seededRng(seed + 1)
  for (let round = 1; round <= rounds; round++) {
    const result = await runRound(round, stage, rng)
    const { problems: found, kills, ...figures } = result
    console.log(JSON.stringify({ ...figures, kills: kills.join(' '), problems: found.length }))
    problems.push(...found.map(problem => `round ${round}: ${problem}`))
  }
  console.log(`cuts on MQTT: ${JSON.stringify(stage.mqttProxy.cuts())}`)
  console.log(`cuts on the uplink: ${JSON.stringify(stage.uplinkProxy.cuts())}`)
  await stage.client.close()
  for (const child of [stage.edge, stage.hub]) {
    const code = await child.stop(20_000)
    if (code !== 0) problems.push(`${child.name} ended with ${code} on SIGTERM:\n${child.stderr()}`)
  }
  await Promise.all([stage.mqttProxy.close(), stage.uplinkProxy.close()])
  problems.push(...verifyLogs(directory))
  for (const problem of problems.slice(0, 50)) console.log(`PROBLEM ${problem}`)
  if (problems.length === 0) await rm(directory, { recursive: true, force: true })
  else console.log(`${problems.length} problems; the directories are kept in ${directory}`)
  console.log(`${problems.length === 0 ? rounds : 0} passed, ${problems.length} failed`)
  process.exitCode = problems.length === 0 ? 0 : 1
}

await main()
