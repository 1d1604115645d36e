/** This machine's own sensors as devices: CPU per core, memory, disk, network, temperatures. */

import { setTimeout as sleep } from 'node:timers/promises'
import si from 'systeminformation'
import type { Device, Reading } from './csv.ts'

/** Between two samples of all sensors. */
const SAMPLE_MS = 250
/** Samples a device keeps for a publisher that falls behind; more are not taken (a sensor has no history). */
const MAX_WAITING = 10_000

/** Values by device name; a device that has nothing to say is left out. */
async function sample(): Promise<Map<string, number>> {
  const [load, memory, filesystems, network, temperature] = await Promise.all([
    si.currentLoad(),
    si.mem(),
    si.fsSize(),
    si.networkStats('*'),
    si.cpuTemperature(),
  ])
  const values = new Map<string, number>()
  const set = (device: string, value: number | null | undefined): void => {
    if (typeof value === 'number' && Number.isFinite(value)) values.set(device, Math.round(value * 100) / 100)
  }
  for (const [core, { load: percent }] of load.cpus.entries()) set(`cpu/${core}/load`, percent)
  set('memory/used', memory.active)
  for (const filesystem of filesystems.slice(0, 4))
    set(`disk/${level(filesystem.mount)}/used`, filesystem.use)
  for (const one of network.slice(0, 4)) {
    set(`network/${level(one.iface)}/rx`, one.rx_sec)
    set(`network/${level(one.iface)}/tx`, one.tx_sec)
  }
  set('cpu/temperature', temperature.main)
  return values
}

/** A mount point or interface as one level of an MQTT topic. */
const level = (text: string): string => text.replaceAll(/[/+#\s]+/g, '-').replace(/^-$/, 'root') || 'root'

/** Devices for every sensor this machine has now, sampled until `signal` aborts. */
export async function machineDevices(signal: AbortSignal): Promise<Device[]> {
  const names = [...(await sample()).keys()]
  const queues = new Map<string, Reading[]>(names.map(name => [name, []]))
  let wake = Promise.withResolvers<void>()
  const sampling = (async () => {
    while (!signal.aborted) {
      const values = await sample()
      const timeMs = Date.now()
      for (const [name, value] of values) {
        const queue = queues.get(name)
        if (queue !== undefined && queue.length < MAX_WAITING) queue.push({ timeMs, value })
      }
      wake.resolve()
      wake = Promise.withResolvers()
      await sleep(SAMPLE_MS, undefined, { signal }).catch(() => undefined)
    }
  })()
  async function* readings(queue: Reading[]): AsyncGenerator<Reading> {
    while (!signal.aborted) {
      const next = queue.shift()
      if (next !== undefined) yield next
      else await Promise.race([wake.promise, sampling])
    }
  }
  return [...queues].map(([name, queue]) => ({ name, readings: readings(queue) }))
}
