/** The demo's processes: hub nodes and an edge on free ports. */

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'yaml'
import type { Child } from './child.ts'
import { createChild, freePorts } from './child.ts'
import { topicOf } from './publisher.ts'

/** The hub topic of all readings. */
export const TOPIC = 'telemetry'
const READY_TIMEOUT_MS = 30_000

export interface Stage {
  /** By node id, from 1. */
  hubs: readonly Child[]
  edge: Child
  /** By process name. */
  kills: Map<string, number>
  hubUrls: readonly string[]
  mqttUrl: string
  edgeUrl: string
}

/** Nothing runs yet. `script` is the command's. */
export async function createStage(directory: string, script: string, nodes: number): Promise<Stage> {
  const ports = await freePorts(2 + 2 * nodes)
  const [mqttPort = 0, edgePort = 0] = ports
  const httpPorts = ports.slice(2, 2 + nodes)
  const peers = ports.slice(2 + nodes).map((port, at) => `${at + 1}@127.0.0.1:${port}`)
  const hubUrls = httpPorts.map(port => `http://127.0.0.1:${port}`)
  const hubs = httpPorts.map((port, at) => {
    const data = ['--data', join(directory, `hub-${at + 1}`), '--http', `127.0.0.1:${port}`]
    const among = nodes === 1 ? [] : ['--node', String(at + 1), '--peers', peers.join(',')]
    return createChild({
      name: nodes === 1 ? 'hub' : `hub ${at + 1}`,
      script,
      args: ['hub', ...data, ...among, '--log-level', 'warn'],
      readyUrl: `http://127.0.0.1:${port}/readyz`,
      readyTimeoutMs: READY_TIMEOUT_MS,
    })
  })
  const edgeUrl = `http://127.0.0.1:${edgePort}`
  const edge = createChild({
    name: 'edge',
    script,
    args: [
      'edge',
      ...['--config', await writeEdgeConfig(directory), '--data', join(directory, 'edge')],
      ...['--hub', hubUrls.join(',')],
      ...['--mqtt', `127.0.0.1:${mqttPort}`, '--http', `127.0.0.1:${edgePort}`],
      ...['--log-level', 'warn'],
    ],
    readyUrl: `${edgeUrl}/healthz`,
    readyTimeoutMs: READY_TIMEOUT_MS,
  })
  return { hubs, edge, kills: new Map(), hubUrls, edgeUrl, mqttUrl: `mqtt://127.0.0.1:${mqttPort}` }
}

async function writeEdgeConfig(directory: string): Promise<string> {
  const file = join(directory, 'edge.yaml')
  const rule = { match: topicOf('#'), topic: TOPIC, eventTime: { path: '$.timeMs', unit: 'ms' } }
  const uplink = { backoffMinMs: '200ms', backoffMaxMs: '1s' }
  await writeFile(file, stringify({ edge: { rules: [rule], uplink } }))
  return file
}
