/** This machine's own sensors as devices: CPU per core, memory, disk, network, temperatures. */

import { setTimeout as sleep } from 'node:timers/promises'
import si from 'systeminformation'
import type { Device, Reading } from './csv.ts'

/** Readings a device keeps for a publisher that falls behind; more are not taken (a sensor has no history). */
const MAX_WAITING = 10_000
/** Disks and network interfaces shown. */
const MAX_PARTS = 4
/** Rates need two looks; the first ones stand so far apart. */
const PRIME_MS = 200

type Values = [device: string, value: number | null | undefined][]

/** Sensors read together, as often as what they cost allows: some start a program. */
interface Group {
  everyMs: number
  read(): Promise<Values>
}

const GROUPS: Group[] = [
  {
    everyMs: 100,
    read: async () =>
      (await si.currentLoad()).cpus.map(({ load }, core) => [`cpu/${core}/loadPercent`, load]),
  },
  {
    everyMs: 200,
    read: async () => [['memory/usedMb', (await si.mem()).active / 1e6]],
  },
  {
    everyMs: 500,
    read: async () =>
      (await si.networkStats('*')).slice(0, MAX_PARTS).flatMap(
        ({ iface, rx_sec, tx_sec }): Values => [
          [`network/${level(iface)}/receivedBytesPerSecond`, rx_sec],
          [`network/${level(iface)}/sentBytesPerSecond`, tx_sec],
        ],
      ),
  },
  {
    everyMs: 1_000,
    read: async () => [['cpu/temperatureCelsius', (await si.cpuTemperature()).main]],
  },
  {
    everyMs: 2_000,
    read: async () =>
      (await si.fsSize())
        .slice(0, MAX_PARTS)
        .map(({ mount, use }) => [`disk/${level(mount)}/usedPercent`, use]),
  },
]

/** A mount point or interface as one level of an MQTT topic. */
const level = (text: string): string => text.replaceAll(/[/+#\s]+/g, '-').replace(/^-$/, 'root') || 'root'

/** Devices for every sensor this machine has now, read until `signal` aborts. */
export async function machineDevices(signal: AbortSignal): Promise<Device[]> {
  await Promise.all(GROUPS.map(group => group.read()))
  await sleep(PRIME_MS)
  const first = (await Promise.all(GROUPS.map(group => group.read()))).flat()
  const queues = new Map(first.filter(isKnown).map(([name]) => [name, createQueue()]))
  for (const group of GROUPS) void sample(group, queues, signal)
  return [...queues].map(([name, queue]) => ({ name, readings: queue.readings(signal) }))
}

const isKnown = (entry: Values[number]): entry is [string, number] => Number.isFinite(entry[1])

async function sample(group: Group, queues: Map<string, Queue>, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const values = await group.read()
    const timeMs = Date.now()
    for (const [name, value] of values.filter(isKnown))
      queues.get(name)?.push({ timeMs, value: Math.round(value * 100) / 100 })
    await sleep(group.everyMs, undefined, { signal }).catch(() => undefined)
  }
}

interface Queue {
  push(reading: Reading): void
  readings(signal: AbortSignal): AsyncGenerator<Reading>
}

function createQueue(): Queue {
  const waiting: Reading[] = []
  let wake = Promise.withResolvers<void>()
  return {
    push: reading => {
      if (waiting.length < MAX_WAITING) waiting.push(reading)
      wake.resolve()
    },
    async *readings(signal) {
      signal.addEventListener('abort', () => wake.resolve(), { once: true })
      while (!signal.aborted) {
        const next = waiting.shift()
        if (next !== undefined) {
          yield next
          continue
        }
        wake = Promise.withResolvers()
        await wake.promise
      }
    },
  }
}
