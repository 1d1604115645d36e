/** Several hub nodes behind gates, an edge that knows them all, and what is done to them. */

import { spawnSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { connect } from '../../common/client.ts'
import type { Rng } from '../../common/env.ts'
import { nodeEnv } from '../../common/env-node.ts'
import type { Child } from '../../demo/child.ts'
import { createChild, freePorts } from '../../demo/child.ts'
import { createHubNodes } from '../hub-nodes.ts'
import { splitMqtt } from './frames.ts'
import type { Gates } from './gate.ts'
import { startProxy } from './proxy.ts'
import type { Stage } from './round.ts'

const READY_TIMEOUT_MS = 60_000
/** The filesystem of the node whose disk gets full. */
export const SMALL_DISK_BYTES = 768 * 1024 * 1024
const MQTT_KINDS = new Set(['puback', 'pubrec', 'pubrel', 'pubcomp', 'connack'])

export interface ClusterStage extends Stage {
  /** The command's. */
  script: string
  hubs: readonly Child[]
  gates: Gates
  /** Of the nodes. */
  folders: readonly string[]
  /** Node whose disk can be filled, as its index; null where mounting one needs root. */
  smallDisk: number | null
  close(): Promise<void>
}

/** All nodes run, or (`isGrown`) node 1 alone, which the others are set to join. */
export async function createClusterStage(
  directory: string,
  script: string,
  nodes: number,
  rng: Rng,
  isGrown: boolean,
): Promise<ClusterStage> {
  const [mqttPort = 0, proxyPort = 0, edgePort = 0] = await freePorts(3)
  const { hubs, urls, gates, folders } = await createHubNodes(directory, script, nodes, {
    isGated: true,
    isGrown,
  })
  const smallDisk = !isGrown && (await mountSmallDisk(folders.at(-1) ?? '')) ? nodes - 1 : null
  const hubUrls = urls.join(',')
  await mkdir(directory, { recursive: true })
  const config = join(directory, 'edge.yaml')
  const rules = [{ match: 'chaos/+/#', topic: 'chaos-{2}' }]
  const uplink = { backoffMinMs: '50ms', backoffMaxMs: '500ms' }
  await writeFile(config, stringify({ edge: { rules, uplink } }))
  const edge = createChild({
    name: 'edge',
    script,
    args: [
      'edge',
      ...['--config', config, '--data', join(directory, 'edge'), '--hub', hubUrls],
      ...['--mqtt', `127.0.0.1:${mqttPort}`, '--http', `127.0.0.1:${edgePort}`, '--log-level', 'warn'],
    ],
    readyUrl: `http://127.0.0.1:${edgePort}/healthz`,
    readyTimeoutMs: READY_TIMEOUT_MS,
  })
  const mqttProxy = await startProxy({
    port: proxyPort,
    targetPort: mqttPort,
    rng,
    splitter: () => splitMqtt,
    kinds: MQTT_KINDS,
  })
  const first = isGrown ? hubs.slice(0, 1) : hubs
  await Promise.all([...first, edge].map(child => child.start()))
  const client = connect({ hub: hubUrls, env: nodeEnv() })
  return {
    script,
    hubs,
    edge,
    gates,
    folders,
    smallDisk,
    mqttProxy,
    uplinkProxy: null,
    harm: async () => [],
    client,
    mqttUrl: `mqtt://127.0.0.1:${proxyPort}`,
    edgeUrl: `http://127.0.0.1:${edgePort}`,
    close: async () => {
      await client.close()
      await Promise.all([gates.close(), mqttProxy.close()])
    },
  }
}

/** Unmounts what `createClusterStage` mounted, once nothing of it is needed any more. */
export function unmountSmallDisk({ folders, smallDisk }: ClusterStage): void {
  if (smallDisk !== null) spawnSync('umount', [folders[smallDisk] ?? ''])
}

async function mountSmallDisk(path: string): Promise<boolean> {
  await mkdir(path, { recursive: true })
  return spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${SMALL_DISK_BYTES}`, 'tmpfs', path]).status === 0
}
