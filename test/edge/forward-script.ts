import type { LaneTip } from '../../common/wire.ts'
import type { ForwarderState } from '../../edge/forward-state.ts'
import type { Input, Output } from '../../edge/forward-types.ts'
import { createForwarder, step } from '../../edge/forwarder.ts'
import type { Ledger } from '../../edge/ledger.ts'
import { newLedger, startRun } from '../../edge/ledger.ts'
import { FIRST_RUN_ID } from '../../edge/runs.ts'

/** Transcripts of the forwarder: what comes in (>) and what it does about it. */

const OPTIONS = { windowBytes: 1_000, backoffMinMs: 1_000, backoffMaxMs: 60_000 }
export const LIMITS = { partition: 0, leaderEpoch: 0, maxRecordBytes: 100, maxBatchBytes: 1_000 }

export interface Script {
  state: ForwarderState
  /** Gives an input and notes what comes of it. */
  say(input: Input, nowMs?: number): void
  welcome(session: number, verdict?: 'ok' | 'fork' | 'hub-rollback', clusterId?: string): void
  opened(log: number, topicId: string, tip?: LaneTip): void
  ack(log: number, run: number, committed: number): void
  /** A read of the ticket ends at `to`, and its frame has so many bytes. */
  ready(ticket: number, to: number, bytes?: number): void
  transcript(): string
}

/** A forwarder with these lanes, and what it said so far. */
export function script(ledgers: Ledger[], session = 0, clusterId: string | null = null): Script {
  const state = createForwarder(OPTIONS, { session, clusterId }, 0)
  const lines: string[] = []
  const self: Script = {
    state,
    say: (input, nowMs = 0) => {
      lines.push(`> ${told(input)}`)
      for (const output of step(state, input, { nowMs, random: 0.5 })) lines.push(`  ${did(output)}`)
    },
    welcome: (granted, verdict = 'ok', cluster = 'A') => {
      const edge = { session: granted, verdict }
      const limits = { maxFrameBytes: 1, heartbeatMs: 1, deadMs: 1 }
      self.say({
        t: 'welcome',
        welcome: { t: 'welcome', protocol: 1, clusterId: cluster, nodeId: 1, nowMs: 0, ...limits, edge },
      })
      self.say({ t: 'adopted', ok: true })
    },
    opened: (log, topicId, tip) => {
      self.say({ t: 'frame', frame: { t: 'opened', log, topicId, ...LIMITS, tip: tip ?? null } })
    },
    ack: (log, run, committed) =>
      self.say({ t: 'frame', frame: { t: 'ack', log, run, next: committed, committed } }),
    ready: (ticket, to, bytes = 100) => {
      self.say({ t: 'read', ticket, to })
      self.say({ t: 'prepared', ticket, bytes })
    },
    transcript: () => lines.map(line => line.replaceAll(/45035996273704(\d\d)/g, 'R$1')).join('\n'),
  }
  for (const ledger of ledgers) self.say({ t: 'lane', ledger })
  return self
}

function told(input: Input): string {
  if (input.t === 'lane') return `lane ${input.ledger.topic}/${input.ledger.lane}`
  if (input.t === 'welcome') {
    const { clusterId, edge } = input.welcome
    return `welcome ${clusterId} session ${edge?.session} ${edge?.verdict}`
  }
  if (input.t === 'frame') {
    const { t, ...rest } = input.frame
    const shown = Object.entries(rest).filter(([key]) => !(key in LIMITS))
    return `${t} ${shown.map(([key, value]) => `${key}=${shortly(value)}`).join(' ')}`
  }
  const { t, ...rest } = input
  return [t, ...Object.entries(rest).map(([key, value]) => `${key}=${shortly(value)}`)].join(' ')
}

function did(output: Output): string {
  if (output.t === 'send') {
    const { t, ...rest } = output.frame
    return `send ${t} ${Object.entries(rest)
      .map(([key, value]) => `${key}=${shortly(value)}`)
      .join(' ')}`
  }
  if (output.t === 'read') {
    const { ticket, lane, from, limit, run } = output
    return `read ${lane} [${from}, ${limit}) of ${run} as ${ticket}`
  }
  if (output.t === 'change') return `change ${output.lane} ${shortly(output.change)}`
  if (output.t === 'alarm') return `alarm ${output.alarm.kind}`
  const { t, ...rest } = output
  return [t, ...Object.entries(rest).map(([key, value]) => `${key}=${shortly(value)}`)].join(' ')
}

function shortly(value: unknown): string {
  if (typeof value !== 'object' || value === null) return String(value)
  return `{${Object.entries(value)
    .map(([key, each]) => `${key}: ${shortly(each)}`)
    .join(', ')}}`
}

/** A lane with one open run of `count` durable records. */
export function lane(topic: string, count: number, over: Partial<Ledger> = {}): Ledger {
  const ledger: Ledger = {
    ...newLedger({ topic, lane: 0, lanes: 1, partitionBy: 'edge', priority: 5 }),
    endOffset: count,
    durableEnd: count,
    sendableEnd: count,
    ...over,
  }
  if (ledger.runs.length === 0) startRun(ledger, FIRST_RUN_ID, 0)
  return ledger
}
