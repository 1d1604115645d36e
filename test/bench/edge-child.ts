/** An edge in a process of its own for the benchmarks. Argument: JSON of EdgeChildOptions; prints its MQTT port as JSON. */

import { pino } from 'pino'
import { defaultEdgeConfig } from '../../common/config-edge.ts'
import type { Disk } from '../../common/env.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { startEdge } from '../../edge/agent.ts'
import { growUnderLoad, startSmall } from '../../edge/heap.ts'

export interface EdgeChildOptions {
  data: string
  commitMs: number
  /** Added to everything that syncs a file's data, for disks slower than this one. */
  syncDelayMs: number
  hub: string
}

/** A disk that takes `delayMs` longer to make a file's data durable. */
function slowed(disk: Disk, delayMs: number): Disk {
  if (delayMs === 0) return disk
  return {
    ...disk,
    open: async (path, mode) => {
      const file = await disk.open(path, mode)
      const slow = () => new Promise(resolve => setTimeout(resolve, delayMs))
      return {
        writev: async (buffers, position) => {
          await file.writev(buffers, position)
          if (mode === 'durable') await slow()
        },
        read: (target, targetOffset, length, position) => file.read(target, targetOffset, length, position),
        datasync: async () => {
          await file.datasync()
          await slow()
        },
        truncate: sizeBytes => file.truncate(sizeBytes),
        sizeBytes: () => file.sizeBytes(),
        close: () => file.close(),
      }
    },
  }
}

const options: EdgeChildOptions = JSON.parse(process.argv[2] ?? '{}')
startSmall()
growUnderLoad()
const env = nodeEnv()
const base = defaultEdgeConfig({})
const edge = await startEdge(
  {
    ...base,
    data: options.data,
    hub: options.hub,
    http: null,
    mqtt: { ...base.mqtt, listen: '127.0.0.1:0' },
    storage: { ...base.storage, commitMs: options.commitMs },
  },
  { ...env, disk: slowed(env.disk, options.syncDelayMs) },
  pino({ level: 'silent' }),
)
console.log(JSON.stringify({ port: edge.mqttAddress?.port }))
process.once('SIGTERM', () => {
  void edge.close().then(() => process.exit(0))
})
