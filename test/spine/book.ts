import type { Run } from '../../edge/runs.ts'

/** What was offered to the edges, what they acked, and where they put it: what the spine is judged by. */

/** A record offered to an edge. */
export interface Offered {
  id: string
  edgeId: string
  topic: string
  /** Of its topic. */
  lane: number
  acked: boolean
  /** The process that acked it, and where it stands in that one's lane. */
  life: Life | null
  offset: number
  /** The topic id that committed it, as its edge knows, and the era of the hub then. */
  committedTo: string | null
  committedEra: number
  /** The only directory that held it was wiped or went back. */
  edgeGone: boolean
  /** Its edge moved to another topic or cluster, and no longer had it. */
  movedBelow: boolean
}

/** One process of an edge: what it acked, by lane, behind what it found. */
export interface Life {
  parent: Life | null
  edgeId: string
  lanes: Map<string, { base: number; ids: string[] }>
}

/** A run, the process it was first seen in, and its lane. */
export interface KnownRun {
  life: Life
  edgeId: string
  topic: string
  lane: number
  start: number
}

/** Faults that excuse what must not happen otherwise; of one edge, or `*` of the hub. */
export type Excuse =
  | 'fork'
  | 'wiped'
  | 'hub-rollback'
  | 'moved'
  | 'deleted'
  | 'edge-full'
  | 'hub-full'
  | 'large'
  | 'damage'
  | 'stalled'

export class Book {
  readonly offered = new Map<string, Offered>()
  readonly runs = new Map<number, KnownRun>()
  readonly deletedTopics = new Set<string>()
  readonly #excuses = new Map<string, Set<Excuse>>()
  readonly #alarms = new Map<string, Map<string, string>>()
  /** Counts up when the hub goes back or is another. */
  hubEra = 0
  #next = 0

  offer(edgeId: string, topic: string, lane: number): Offered {
    const id = `${edgeId}-${this.#next++}`
    const offered: Offered = {
      id,
      edgeId,
      topic,
      lane,
      acked: false,
      life: null,
      offset: -1,
      committedTo: null,
      committedEra: 0,
      edgeGone: false,
      movedBelow: false,
    }
    this.offered.set(id, offered)
    return offered
  }

  /** Acks come in the order of offsets. */
  ack(record: Offered, life: Life): void {
    const key = `${record.topic}/${record.lane}`
    let lane = life.lanes.get(key)
    if (lane === undefined) {
      lane = { base: 0, ids: [] }
      life.lanes.set(key, lane)
    }
    record.acked = true
    record.life = life
    record.offset = lane.base + lane.ids.length
    lane.ids.push(record.id)
  }

  /** The acked record at an offset of a lane, as a process or the ones before it saw it. */
  at(life: Life, key: string, offset: number): Offered | null {
    for (let of: Life | null = life; of !== null; of = of.parent) {
      const lane = of.lanes.get(key)
      // It was not there: what an earlier process put there is in a directory that this one does not have.
      if (lane === undefined) return null
      if (offset < lane.base) continue
      const id = lane.ids[offset - lane.base]
      return id === undefined ? null : (this.offered.get(id) ?? null)
    }
    return null
  }

  /** Where each lane ends at least, by what was acked. */
  ends(life: Life | null): Map<string, number> {
    return new Map([...(life?.lanes ?? [])].map(([key, { base, ids }]) => [key, base + ids.length]))
  }

  seen(run: Run, life: Life, topic: string, lane: number): void {
    if (this.runs.has(run.run)) return
    this.runs.set(run.run, { life, edgeId: life.edgeId, topic, lane, start: run.start })
    if (run.reason === 'moved') this.moved(life, `${topic}/${lane}`, run.start)
  }

  /** An edge came to a topic or cluster that was never told of what lies below `start`: it holds that no more. */
  moved(life: Life, key: string, start: number): void {
    for (let offset = 0; offset < start; offset++) {
      const record = this.at(life, key, offset)
      if (record !== null) record.movedBelow = true
    }
  }

  /** What `lost` and the ones before it held, and `kept` does not, is gone from the edge. */
  gone(lost: Life | null, kept: Life | null): void {
    const lives = new Set<Life>()
    for (let of = lost; of !== null; of = of.parent) lives.add(of)
    for (const record of this.offered.values()) {
      if (record.life === null || !lives.has(record.life)) continue
      const held = kept === null ? null : this.at(kept, `${record.topic}/${record.lane}`, record.offset)
      if (held !== record) record.edgeGone = true
    }
  }

  excuse(who: string, what: Excuse): void {
    const known = this.#excuses.get(who) ?? new Set()
    this.#excuses.set(who, known.add(what))
  }

  isExcused(edgeId: string, ...what: Excuse[]): boolean {
    return what.some(
      each => this.#excuses.get(edgeId)?.has(each) === true || this.#excuses.get('*')?.has(each) === true,
    )
  }

  alarm(edgeId: string, kind: string, message: string): void {
    const known = this.#alarms.get(edgeId) ?? new Map()
    this.#alarms.set(edgeId, known.set(kind, message))
  }

  alarms(edgeId: string): Map<string, string> {
    return this.#alarms.get(edgeId) ?? new Map()
  }
}
