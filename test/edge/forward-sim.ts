import { assert, must } from '../../common/assert.ts'
import type { Rng } from '../../common/env.ts'
import type { UplinkHubFrame } from '../../common/wire.ts'
import type { ForwarderState } from '../../edge/forward-state.ts'
import type { ForwarderAlarm, Input, Output } from '../../edge/forward-types.ts'
import { createForwarder, DEAD_TOPIC, step, wakeAtMs } from '../../edge/forwarder.ts'
import { pruneGaps } from '../../edge/gaps.ts'
import type { Ledger } from '../../edge/ledger.ts'
import {
  adoptVerdict,
  declareLoss,
  endRun,
  freeableEnd,
  laneKey,
  newLedger,
  recut,
  startRun,
} from '../../edge/ledger.ts'
import { FIRST_RUN_ID, pruneRuns } from '../../edge/runs.ts'
import type { HubConnection, HubState, ModelEdgeFrame } from './model-hub.ts'
import { commitAll, hello, newHub, take } from './model-hub.ts'

/** The forwarder between a model edge (ledgers and record ids instead of logs) and a model hub, with everything late, cut or lost at random. */

const OPTIONS = {
  windowBytes: 2_000,
  backoffMinMs: 1_000,
  backoffMaxMs: 60_000,
}

/** What every summary of the model says. */
export const MODEL_SUMMARY = { reason: 'thinned' as const, count: 9, keys: 2, firstMs: 1, lastMs: 2 }

/** What a crash leaves of an edge. */
export interface Disk {
  ledgers: Map<string, Ledger>
  records: Map<string, string[]>
  session: number
  clusterId: string | null
}

interface Work {
  at: 'edge' | 'hub' | 'disk' | 'read'
  run(): void
}

export interface Sim {
  hub: HubState
  disk: Disk
  alarms: ForwarderAlarm[]
  dead: string[]
  append(topic: string, lane: number, count: number, kind?: 'plain' | 'large' | 'summary'): string[]
  /** Drops the oldest records of a lane, pending ones with a gap. */
  dropOldest(key: string, count: number): void
  /** Gives acked records back. */
  free(key: string): void
  cut(): void
  restart(): void
  replaceHub(hub: HubState): void
  replaceDisk(disk: Disk): void
  deleteTopic(topic: string, again: boolean): void
  refuseNext(topic: string): void
  throttle(): void
  /** One thing happens. False: nothing can but time. */
  turn(): boolean
  /** Runs without further faults until everything pending is committed. */
  settle(): void
  copyDisk(): Disk
  copyHub(): HubState
}

type Kind = Parameters<Sim['append']>[3]

export function createSim(rng: Rng): Sim {
  let nowMs = 0
  let nextId = 1
  let nextRun = FIRST_RUN_ID
  let life = 0
  let connectionId = 0
  let connection: HubConnection | null = null
  let toHub: ModelEdgeFrame[] = []
  let toEdge: UplinkHubFrame[] = []
  let later: Work[] = []
  let forwarder: ForwarderState
  let ledgers = new Map<string, Ledger>()
  let appends = new Map<number, ModelEdgeFrame>()
  let hubCommitDue = false
  const large = new Set<string>()
  const summaries = new Set<string>()
  let refuse: string | null = null

  const sim: Sim = {
    hub: newHub('A'),
    disk: { ledgers: new Map(), records: new Map(), session: 0, clusterId: null },
    alarms: [],
    dead: [],
    append,
    dropOldest,
    free: key => {
      const ledger = must(ledgers.get(key), key)
      ledger.startOffset = Math.max(ledger.startOffset, freeableEnd(ledger))
      pruneRuns(ledger.runs, ledger.startOffset)
      persist(key)
    },
    cut,
    restart: () => {
      cut()
      boot()
    },
    replaceHub: hub => {
      cut()
      sim.hub = hub
    },
    replaceDisk: disk => {
      cut()
      sim.disk = disk
      boot()
    },
    deleteTopic: (topic, again) => {
      const id = sim.hub.topics.get(topic)
      if (id === undefined) return
      sim.hub.topics.delete(topic)
      sim.hub.deleted.push({ topic, id })
      if (again) sim.hub.topics.set(topic, `${sim.hub.clusterId}-${sim.hub.nextTopic++}`)
      // A hub refuses appends to a topic that is gone; the model does so when the lane is opened.
      cut()
    },
    refuseNext: topic => {
      refuse = topic
    },
    throttle: () => {
      if (connection !== null && connection.session > 0) toEdge.push({ t: 'throttle', delayMs: 500 })
    },
    turn,
    settle,
    copyDisk: () => structuredClone(sim.disk),
    copyHub: () => structuredClone(sim.hub),
  }

  const newRunId = (): number => nextRun++

  function boot(): void {
    life++
    later = later.filter(work => work.at === 'hub')
    appends = new Map()
    ledgers = structuredClone(sim.disk.ledgers)
    forwarder = createForwarder(OPTIONS, { session: sim.disk.session, clusterId: sim.disk.clusterId }, nowMs)
    for (const [key, ledger] of ledgers) {
      const end = sim.disk.records.get(key)?.length ?? 0
      ledger.endOffset = end
      ledger.durableEnd = end
      ledger.sendableEnd = end
      endRun(ledger, end)
      input({ t: 'lane', ledger })
    }
    input({ t: 'tick' })
  }

  function persist(key: string): void {
    sim.disk.ledgers.set(key, structuredClone(must(ledgers.get(key), key)))
  }

  function ledgerOf(topic: string, lane: number): Ledger {
    const key = laneKey(topic, lane)
    const known = ledgers.get(key)
    if (known !== undefined) return known
    const ledger = newLedger({ topic, lane, lanes: 2, partitionBy: 'key', priority: 5 })
    ledgers.set(key, ledger)
    sim.disk.records.set(key, [])
    input({ t: 'lane', ledger })
    return ledger
  }

  function append(topic: string, lane: number, count: number, kind: Kind = 'plain'): string[] {
    const ids: string[] = []
    const ledger = ledgerOf(topic, lane)
    const key = laneKey(topic, lane)
    const records = must(sim.disk.records.get(key), key)
    for (let index = 0; index < count; index++) {
      const id = `${key}#${nextId++}`
      if (kind === 'large') large.add(id)
      if (kind === 'summary') summaries.add(id)
      if (ledger.runs.at(-1)?.end !== null) startRun(ledger, newRunId(), ledger.endOffset)
      records.push(id)
      ids.push(id)
      ledger.endOffset++
    }
    ledger.durableEnd = ledger.endOffset
    ledger.sendableEnd = ledger.endOffset
    persist(key)
    input({ t: 'wake', lane: key })
    return ids
  }

  function dropOldest(key: string, count: number): void {
    const ledger = ledgers.get(key)
    if (ledger === undefined) return
    const to = Math.min(ledger.startOffset + count, ledger.durableEnd)
    const from = ledger.startOffset
    if (to <= from) return
    if (to > ledger.committed) declareLoss(ledger, { from, to, reason: 'disk-full', firstMs: 1, lastMs: 2 })
    persist(key)
    ledger.startOffset = to
    persist(key)
    input({ t: 'wake', lane: key })
  }

  function cut(): void {
    if (connection === null) return
    connection = null
    connectionId++
    toHub = []
    toEdge = []
    input({ t: 'closed', reason: 'cut', fenced: false, next: rng.float() < 0.2 })
  }

  function input(value: Input): void {
    for (const output of step(forwarder, value, { nowMs, random: rng.float() })) perform(output)
  }

  /** Runs `work` at some later turn unless the agent was restarted before. */
  function soon(at: Work['at'], run: () => void): void {
    const born = life
    later.push({
      at,
      run: () => {
        if (life === born) run()
      },
    })
  }

  function perform(output: Output): void {
    switch (output.t) {
      case 'dial': {
        const id = ++connectionId
        soon('hub', () => {
          if (id !== connectionId) return
          connection = { hub: sim.hub, logs: new Map(), session: 0 }
          const welcome = hello(sim.hub, output.session, output.clusterId)
          toEdge.push(welcome)
        })
        break
      }
      case 'send':
        toHub.push(output.frame)
        break
      case 'append':
        toHub.push(must(appends.get(output.ticket), 'only what is prepared is sent'))
        appends.delete(output.ticket)
        break
      case 'drop':
        appends.delete(output.ticket)
        break
      case 'read':
        read(output)
        break
      case 'adopt':
        adopt(output)
        break
      case 'change':
        change(output)
        break
      case 'committed': {
        const ledger = must(ledgers.get(output.lane), output.lane)
        ledger.committed = output.offset
        ledger.gaps = pruneGaps(ledger.gaps, ledger.committed)
        soon('disk', () => persist(output.lane))
        break
      }
      case 'close':
        soon('hub', cut)
        break
      case 'alarm':
        sim.alarms.push(output.alarm)
    }
  }

  function read(output: Extract<Output, { t: 'read' }>): void {
    soon('read', () => {
      const ledger = must(ledgers.get(output.lane), output.lane)
      const records = must(sim.disk.records.get(output.lane), output.lane)
      const { ticket, from, limit, run, runStart, log } = output
      assert(from < limit && limit <= records.length, 'reads stay inside the log')
      if (from < ledger.startOffset) return input({ t: 'unreadable', ticket, damage: null })
      if (rng.float() < 0.02) return input({ t: 'unreadable', ticket, damage: null })
      if (summaries.has(must(records[from], 'it was just looked at'))) {
        return input({ t: 'summary', ticket, summary: MODEL_SUMMARY })
      }
      const wanted = records.slice(from, Math.min(limit, from + 1 + rng.below(5)))
      const next = wanted.findIndex(id => summaries.has(id))
      const ids = next < 0 ? wanted : wanted.slice(0, next)
      const to = from + ids.length
      input({ t: 'read', ticket, to })
      soon('read', () => {
        appends.set(ticket, { t: 'append', log, run, sequence: from - runStart, ids })
        input({ t: 'prepared', ticket, bytes: 100 * ids.length })
      })
    })
  }

  function adopt(output: Extract<Output, { t: 'adopt' }>): void {
    const { session, clusterId, verdict } = output
    for (const ledger of ledgers.values()) adoptVerdict(ledger, verdict, newRunId)
    soon('disk', () => {
      sim.disk.session = session
      sim.disk.clusterId = clusterId
      for (const key of ledgers.keys()) persist(key)
      input({ t: 'adopted', ok: true })
    })
  }

  function change({ lane, change: wanted }: Extract<Output, { t: 'change' }>): void {
    const ledger = must(ledgers.get(lane), lane)
    if (wanted.kind === 'bind') ledger.topicId = wanted.topicId
    else if (wanted.kind === 'recut') {
      recut(ledger, wanted.from, wanted.reason, newRunId)
      if (wanted.topicId !== undefined) ledger.topicId = wanted.topicId
    } else if (wanted.kind === 'lose') {
      declareLoss(ledger, { ...wanted, firstMs: null, lastMs: 1 })
    } else {
      const to = Math.min(wanted.to, wanted.from + 1 + rng.below(4))
      const records = must(sim.disk.records.get(lane), lane)
      declareLoss(ledger, { from: wanted.from, to, reason: 'refused', firstMs: null, lastMs: 1 })
      // One commit with whatever stores the gap first.
      if (ledger.topic !== DEAD_TOPIC) sim.dead.push(...records.slice(wanted.from, to))
    }
    soon('disk', () => {
      persist(lane)
      input({ t: 'changed', lane, ok: true })
    })
  }

  function turn(): boolean {
    const choices: (() => void)[] = []
    // The disk is one; reads come back in any order, but of one lane only one is under way until its end is known.
    const firstOnDisk = later.find(work => work.at === 'disk')
    for (const work of later) {
      if (work.at === 'disk' && work !== firstOnDisk) continue
      choices.push(() => {
        later.splice(later.indexOf(work), 1)
        work.run()
      })
    }
    if (toHub.length > 0) choices.push(deliverToHub, deliverToHub)
    if (toEdge.length > 0) choices.push(deliverToEdge, deliverToEdge)
    if (hubCommitDue && connection !== null) {
      choices.push(() => {
        hubCommitDue = false
        if (connection !== null) toEdge.push(...commitAll(connection))
      })
    }
    const choice = choices[rng.below(Math.max(1, choices.length))]
    if (choice !== undefined) {
      choice()
      return true
    }
    const wakeMs = wakeAtMs(forwarder, nowMs)
    if (wakeMs === Number.POSITIVE_INFINITY) return false
    nowMs = Math.max(nowMs, wakeMs)
    input({ t: 'tick' })
    return true
  }

  function deliverToHub(): void {
    const frame = toHub.shift()
    if (frame === undefined || connection === null) return
    if (frame.t === 'append' && refuse !== null && connection.logs.get(frame.log)?.blocked === false) {
      refuse = null
      must(connection.logs.get(frame.log), 'it was just looked at').blocked = true
      toEdge.push({ t: 'refused', log: frame.log, code: 'not_available', message: 'model' })
      return
    }
    toEdge.push(...take(connection, frame, id => large.has(id)))
    hubCommitDue = true
  }

  function deliverToEdge(): void {
    const frame = toEdge.shift()
    if (frame === undefined) return
    if (frame.t === 'welcome') input({ t: 'welcome', welcome: frame })
    else if (frame.t === 'opened' || frame.t === 'ack' || frame.t === 'refused' || frame.t === 'throttle') {
      input({ t: 'frame', frame })
    }
  }

  /** Gaps of a topic that is gone wait for it to come back. */
  function isSent(ledger: Ledger): boolean {
    const isGone = ledger.topicId === null && sim.hub.deleted.some(({ topic }) => topic === ledger.topic)
    return ledger.committed >= ledger.durableEnd || (isGone && !sim.hub.topics.has(ledger.topic))
  }

  function settle(): void {
    refuse = null
    for (let turns = 0; turns < 50_000; turns++) {
      const isDone = [...ledgers.values()].every(
        ledger => freeableEnd(ledger) >= ledger.durableEnd && isSent(ledger),
      )
      if (isDone && toHub.length === 0 && toEdge.length === 0 && later.length === 0) return
      if (!turn()) return
      // Lanes of a deleted topic ask for it once a minute, for ever.
      if (nowMs > 1e9) return
    }
    throw new Error(
      `no end in sight: ${JSON.stringify([...ledgers.values()])} ${JSON.stringify(sim.alarms.slice(-5))}`,
    )
  }

  boot()
  return sim
}
