import { rm } from 'node:fs/promises'
import { pino } from 'pino'
import { defaultHubConfig } from '../../common/config-hub.ts'
import { nodeEnv } from '../../common/env-node.ts'
import { openClusterEngine } from '../../hub/engines/cluster/engine.ts'
import type { Ports } from '../../hub/ports.ts'
import type { BenchContext } from './measure.ts'
import { markdownTable, median, thousands } from './measure.ts'

/** Requests to the controller of a node alone, each judged and committed: what edges ask by the thousand after an outage. */

const CALLERS = 1_000

interface Figures {
  perSecond: number
  cpuUs: number
}

interface Kind {
  name: string
  requests: number
  ask(ports: Ports, number: number): Promise<unknown>
}

const KINDS: readonly Kind[] = [
  {
    name: 'sessions granted',
    requests: 50_000,
    ask: ({ fleet }, number) => {
      const id = `edge-${number % CALLERS}`
      const session = Math.floor(number / CALLERS)
      const who = { address: '10.0.0.1:5', software: 'bench', nowMs: 1 }
      return fleet.connect({ id, session, ...who, isWanted: () => true, fence: () => {} })
    },
  },
  {
    name: 'topics created',
    requests: 5_000,
    ask: ({ topics }, number) => topics.create({ name: `t${number}`, partitions: 1 }),
  },
]

async function once(directory: string, { requests, ask }: Kind): Promise<Figures> {
  const data = `${directory}/hub`
  const config = defaultHubConfig({ data, maxTopics: 2 * requests })
  const engine = await openClusterEngine(config, nodeEnv(), pino({ level: 'silent' }))
  let next = 0
  const caller = async (): Promise<void> => {
    for (let number = next++; number < requests; number = next++) await ask(engine.ports, number)
  }
  const cpuBefore = process.cpuUsage()
  const startedMs = performance.now()
  await Promise.all(Array.from({ length: CALLERS }, caller))
  const seconds = (performance.now() - startedMs) / 1_000
  const { user, system } = process.cpuUsage(cpuBefore)
  await engine.close()
  await rm(data, { recursive: true })
  return { perSecond: requests / seconds, cpuUs: (user + system) / requests }
}

/** Each kind of request by 1,000 callers, each of which waits for its answer. */
export async function benchController({ directory, runs, write }: BenchContext): Promise<void> {
  const rows: string[][] = []
  for (const kind of KINDS) {
    const figures: Figures[] = []
    for (let run = 0; run < runs; run++) figures.push(await once(directory, kind))
    rows.push([
      `${kind.name}, ${CALLERS} callers`,
      thousands(median(figures.map(({ perSecond }) => perSecond))),
      median(figures.map(({ cpuUs }) => cpuUs)).toFixed(0),
    ])
  }
  write(`${markdownTable(['controller', 'requests/s', 'CPU us each'], rows)}\n`)
}
