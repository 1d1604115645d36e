import { must } from '../common/assert.ts'
import { isTributaryError, messageOf, TributaryError } from '../common/errors.ts'
import type { DataDir, StateEntry, StateLog } from '../common/log/types.ts'
import type { Lane } from './lane.ts'
import type { AppendDone } from './ports.ts'

/**
 * What arrives while a commit is under way shares the next one: records of all lanes, session changes, runs and gaps, in one
 * synchronous turn and so all of it or nothing. One array of callbacks a group; nothing is allocated per record.
 */

/** A lane's state that a group stores besides records. */
export type LaneState = 'lane' | 'gaps'

/** What has a state of its own that goes with a group: asked for it when the group is handed on, told when it ended. */
export interface GroupPart {
  /** For the state log of windows. */
  seal(): StateEntry[]
  settle(isDurable: boolean): void
}

interface Group {
  dones: AppendDone[]
  /** By index in `dones`, for those that fail whatever becomes of the group. */
  failures: Map<number, TributaryError>
  lanes: Set<Lane>
  session: Map<string, Uint8Array | null>
  laneStates: Map<Lane, Set<LaneState>>
  parts: Set<GroupPart>
  bytes: number
  /** Of what the parts will bring. */
  partBytes: number
}

function newGroup(): Group {
  return {
    dones: [],
    failures: new Map(),
    lanes: new Set(),
    session: new Map(),
    laneStates: new Map(),
    parts: new Set(),
    bytes: 0,
    partBytes: 0,
  }
}

export interface GroupsOptions {
  directory: DataDir
  session: StateLog
  state: StateLog
  /** Null where no topic has a policy that needs windows. */
  windows: StateLog | null
  /** A group is handed on when it has so many bytes. */
  groupBytes: number
  /** Or when its parts have so many: more, for what they gather a newer reading may replace. */
  partBytes: number
  /** So many bytes are handed on in one synchronous turn: a turn is one commit, which the journal bounds. */
  turnBytes: number
  /** A group ended, after its callbacks. */
  ended(error: TributaryError | null): void
}

export class CommitGroups {
  readonly #options: GroupsOptions
  #group = newGroup()
  #collecting = false
  /** Session changes as of the last append, as far as the state log has not heard of them. */
  readonly #overlay = new Map<string, Uint8Array | null>()
  #last: Promise<void> = Promise.resolve()
  /** Bytes handed on in this turn. */
  #turnBytes = 0
  /** Bytes handed on and not durable. */
  uncommittedBytes = 0

  constructor(options: GroupsOptions) {
    this.#options = options
  }

  /** Bytes gathered for the next group. */
  get gatheredBytes(): number {
    return this.#group.bytes + this.#group.partBytes
  }

  /** Whether the group has its fill and this turn can hand on no more: what comes must wait. */
  isFull(): boolean {
    const { groupBytes, partBytes } = this.#options
    return this.#group.bytes >= groupBytes || this.#group.partBytes >= partBytes
  }

  /** Session changes in order of arrival; visible at once, durable with the group they are added to. */
  note(entries: readonly StateEntry[]): void {
    for (const { key, value } of entries) this.#overlay.set(key, value)
  }

  /** Takes back what was noted and is never added. */
  forget(entries: readonly StateEntry[]): void {
    for (const { key, value } of entries) if (this.#overlay.get(key) === value) this.#overlay.delete(key)
  }

  /** Adds what the lane's builder took, and session changes, with the callback for both. */
  add(lane: Lane | null, bytes: number, session: readonly StateEntry[], done: AppendDone): void {
    const group = this.#group
    if (lane !== null) group.lanes.add(lane)
    if (session.length > 0) for (const { key, value } of session) group.session.set(key, value)
    group.dones.push(done)
    group.bytes += bytes
    if (this.isFull() && this.#turnBytes + this.gatheredBytes <= this.#options.turnBytes) this.seal()
    else this.#collect()
  }

  /** Tells `done` of its failure when its turn comes. */
  addFailed(error: TributaryError, done: AppendDone): void {
    this.#group.failures.set(this.#group.dones.length, error)
    this.#group.dones.push(done)
    this.#collect()
  }

  /** Stores this of the lane in the next group. */
  addState(lane: Lane, what: LaneState): void {
    const states = this.#group.laneStates.get(lane)
    if (states === undefined) this.#group.laneStates.set(lane, new Set([what]))
    else states.add(what)
    this.#collect()
  }

  /** The part belongs to the group that gathers now, to which it brings so many bytes more. */
  addPart(part: GroupPart, bytes = 0): void {
    this.#group.parts.add(part)
    this.#group.partBytes += bytes
    this.#collect()
  }

  /** What the lane was given belongs to the group that gathers now; for callers that seal it in this turn. */
  addLane(lane: Lane): void {
    this.#group.lanes.add(lane)
  }

  sessionEntry(key: string): Uint8Array | undefined {
    const pending = this.#overlay.get(key)
    if (pending !== undefined) return pending ?? undefined
    return this.#options.session.get(key)
  }

  sessionEntries(prefix: string): [string, Uint8Array][] {
    const merged = new Map(this.#options.session.entries(prefix))
    for (const [key, value] of this.#overlay) {
      if (!key.startsWith(prefix)) continue
      if (value === null) merged.delete(key)
      else merged.set(key, value)
    }
    return [...merged].sort(([left], [right]) => (left < right ? -1 : left > right ? 1 : 0))
  }

  /** Resolves when everything added so far has ended. */
  async settled(): Promise<void> {
    this.seal()
    await this.#last
  }

  #collect(): void {
    if (this.#collecting) return
    this.#collecting = true
    this.#options.directory.collectAtNextCommit(() => {
      this.#collecting = false
      this.seal()
      // A collector has a turn of its own.
      this.#turnBytes = 0
    })
  }

  /** Hands the group to the logs, in this turn. */
  seal(): void {
    const group = this.#group
    if (group.dones.length === 0 && group.laneStates.size === 0 && group.parts.size === 0) return
    this.uncommittedBytes += this.gatheredBytes
    if (this.#turnBytes === 0) void Promise.resolve().then(() => this.#endTurn())
    this.#turnBytes += this.gatheredBytes
    this.#group = newGroup()
    const parts: Promise<unknown>[] = []
    for (const lane of group.lanes) parts.push(lane.seal())
    const session = [...group.session].map(([key, value]) => ({ key, value }))
    if (session.length > 0) {
      parts.push(this.#options.session.put(session))
      // What waits behind this group may have replaced some already.
      this.forget(session)
    }
    const state: StateEntry[] = []
    for (const [lane, states] of group.laneStates) {
      if (states.has('lane')) state.push(lane.laneEntry())
      if (states.has('gaps')) state.push(lane.gapsEntry())
    }
    if (state.length > 0) parts.push(this.#options.state.put(state))
    const windows: StateEntry[] = []
    for (const part of group.parts) windows.push(...part.seal())
    if (windows.length > 0) {
      parts.push(must(this.#options.windows, 'windows have a state log').put(windows))
    }
    const durable = Promise.all(parts).then(
      () => null,
      (error: unknown) => asFailure(error),
    )
    const before = this.#last
    this.#last = before.then(() => durable).then(error => this.#end(group, error))
  }

  #endTurn(): void {
    this.#turnBytes = 0
  }

  #end(group: Group, error: TributaryError | null): void {
    this.uncommittedBytes -= group.bytes + group.partBytes
    if (error !== null) {
      for (const lane of group.lanes) lane.refresh()
      // The runs and gaps it was to store are still to be stored.
      for (const [lane, states] of group.laneStates) for (const what of states) this.#retain(lane, what)
    }
    for (const part of group.parts) part.settle(error === null)
    const { dones, failures } = group
    const told = error === null ? null : toldOf(error)
    for (let index = 0; index < dones.length; index++) {
      const own = failures.size === 0 ? undefined : failures.get(index)
      const failure = own ?? told
      if (failure === null) dones[index]?.()
      else dones[index]?.(failure)
    }
    this.#options.ended(error)
  }

  /** Keeps a lane's state for the next group without starting a commit for it. */
  #retain(lane: Lane, what: LaneState): void {
    const states = this.#group.laneStates.get(lane) ?? new Set()
    this.#group.laneStates.set(lane, states.add(what))
  }
}

/** `disk_full` is for what a policy holds back; what no policy chose to lose is to be sent again. */
function toldOf(error: TributaryError): TributaryError {
  if (error.code !== 'disk_full') return error
  return new TributaryError('not_available', `the disk is full: ${error.message}`, { cause: error })
}

function asFailure(error: unknown): TributaryError {
  if (isTributaryError(error)) return error
  return new TributaryError('disk_failed', `the append failed: ${messageOf(error)}`, { cause: error })
}
