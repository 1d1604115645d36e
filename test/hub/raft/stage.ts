import { assert, must } from '../../../common/assert.ts'
import { step } from '../../../hub/raft/node.ts'
import type { Raft } from '../../../hub/raft/state.ts'
import { createRaft } from '../../../hub/raft/state.ts'
import type {
  Config,
  Entry,
  HardState,
  Input,
  MemberId,
  Message,
  Outgoing,
  RaftOptions,
  Ready,
  SnapshotMark,
  Write,
} from '../../../hub/raft/types.ts'
import { BEFORE_FIRST, memberId } from '../../../hub/raft/types.ts'

/** Members with disks that lose what was not synced, and a network that is a list. */

export const NOBODY: Config = { voters: [], learners: [] }
export const OPTIONS: Omit<RaftOptions, 'self'> = {
  electionTicks: 10,
  heartbeatTicks: 1,
  maxMessageEntries: 4,
  maxMessageBytes: 1_000,
  maxInflightMessages: 3,
  maxInflightBytes: 2_000,
  maxUncommittedEntries: 100,
  maxUncommittedBytes: 10_000,
  maxPromotionLagEntries: 2,
}

/** The seat of node `id`'s first directory. */
export function seat(id: number, directory = 'd'): MemberId {
  return memberId(id, directory)
}

export function founding(voters: readonly number[], learners: readonly number[] = []): SnapshotMark {
  const config = { voters: voters.map(id => seat(id)), learners: learners.map(id => seat(id)) }
  return { index: BEFORE_FIRST, term: 0, config }
}

export interface Disk {
  hardState: HardState
  snapshot: SnapshotMark
  entries: Entry[]
}

export interface Member {
  readonly id: MemberId
  /** null: down. */
  raft: Raft | null
  disk: Disk
  /** Handed out for writing, not durable. */
  writes: Write[]
  /** Messages that wait for a write. */
  held: Outgoing[]
  durableTicket: number
  random: () => number
}

export interface Watch {
  ready?(member: Member, input: Input | null, ready: Ready): void
  /** A message is on the network. */
  sent?(message: Message): void
}

export function emptyDisk(snapshot: SnapshotMark = founding([])): Disk {
  return { hardState: { term: 0, vote: null }, snapshot, entries: [] }
}

/** Puts a write where a crash can't take it: the snapshot replaces all, entries replace what is there from their first index on. */
function store(disk: Disk, write: Write): void {
  if (write.hardState !== null) disk.hardState = write.hardState
  if (write.snapshot !== null) {
    disk.snapshot = write.snapshot
    disk.entries = []
  }
  const first = write.entries[0]
  if (first === undefined) return
  disk.entries = disk.entries.filter(entry => entry.index < first.index)
  const end = disk.entries.at(-1)?.index ?? disk.snapshot.index
  assert(first.index === end + 1, `a write at ${first.index} leaves a hole behind ${end}`)
  disk.entries.push(...write.entries)
}

export class Stage {
  readonly members = new Map<MemberId, Member>()
  network: Message[] = []
  options: Omit<RaftOptions, 'self'>
  readonly #watch: Watch

  constructor(watch: Watch = {}, options: Partial<RaftOptions> = {}) {
    this.#watch = watch
    this.options = { ...OPTIONS, ...options }
  }

  member(id: MemberId): Member {
    return must(this.members.get(id), `there is no member ${id}`)
  }

  raft(id: MemberId): Raft {
    return must(this.member(id).raft, `${id} is down`)
  }

  add(id: MemberId, disk: Disk, random: () => number = () => 0): Member {
    const member: Member = { id, raft: null, disk, writes: [], held: [], durableTicket: 0, random }
    this.members.set(id, member)
    this.start(id)
    return member
  }

  /** Comes up with what its disk holds. */
  start(id: MemberId): void {
    const member = this.member(id)
    assert(member.raft === null, `${id} is up`)
    member.raft = createRaft({ ...this.options, self: id }, member.disk, member.random())
    member.durableTicket = 0
  }

  /** Goes down and loses what was not durable. */
  crash(id: MemberId): void {
    const member = this.member(id)
    member.raft = null
    member.writes = []
    member.held = []
  }

  step(id: MemberId, input: Input): Ready {
    const member = this.member(id)
    const ready = step(this.raft(id), input, member.random())
    if (ready.write !== null) member.writes.push(ready.write)
    this.#watch.ready?.(member, input, ready)
    member.held.push(...ready.send)
    this.#release(member)
    return ready
  }

  /** Makes the oldest write durable; false where there is none. */
  sync(id: MemberId): boolean {
    const member = this.member(id)
    const write = member.writes.shift()
    if (write === undefined) return false
    store(member.disk, write)
    member.durableTicket = write.ticket
    this.step(id, { t: 'persisted', ticket: write.ticket })
    return true
  }

  #release(member: Member): void {
    const due = member.held.filter(({ after }) => after <= member.durableTicket)
    member.held = member.held.filter(({ after }) => after > member.durableTicket)
    for (const { message } of due) {
      this.network.push(message)
      this.#watch.sent?.(message)
    }
  }

  /** Delivers a message that was taken off the network. A snapshot's sender learns how that went. */
  deliver(message: Message): void {
    const up = this.members.get(message.to)?.raft ?? null
    if (up !== null) this.step(message.to, { t: 'message', message })
    if (message.t === 'snapshot') this.transferred(message, up !== null)
  }

  transferred({ from, to }: Message, ok: boolean): void {
    const sender = this.members.get(from)
    if (sender?.raft) this.step(from, { t: 'snapshot-sent', to, ok })
  }

  /** Syncs and delivers in order until nothing is left to do; `passes` says which messages get through. */
  settle(passes: (message: Message) => boolean = () => true): void {
    for (let rounds = 0; rounds < 10_000; rounds++) {
      let moved = false
      for (const { id, raft } of this.members.values()) if (raft !== null && this.sync(id)) moved = true
      const message = this.network.shift()
      if (message !== undefined) {
        moved = true
        if (passes(message)) this.deliver(message)
        else if (message.t === 'snapshot') this.transferred(message, false)
      }
      if (!moved) return
    }
    throw new Error('the members never come to rest')
  }

  /** Members 1 to `voters`, founded together; the first of them leads where `elect`. */
  found(voters: number, elect = true): MemberId[] {
    const ids = Array.from({ length: voters }, (_, at) => at + 1)
    for (const id of ids) this.add(seat(id), emptyDisk(founding(ids)))
    if (elect) {
      this.step(seat(1), { t: 'campaign' })
      this.settle()
    }
    return ids.map(id => seat(id))
  }
}
