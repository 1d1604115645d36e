import { assert } from '../../../common/assert.ts'
import { buildBatch } from '../../../common/batch-builder.ts'
import { concat } from '../../../common/bytes.ts'
import type { Clock } from '../../../common/env.ts'
import type { Log } from '../../../common/log/types.ts'
import { step } from '../../raft/node.ts'
import type { Raft } from '../../raft/state.ts'
import { createRaft } from '../../raft/state.ts'
import type { Entry, Input, MemberId, RaftOptions } from '../../raft/types.ts'

/**
 * The shell of a consensus core that votes alone: its log is the metadata log, an entry's index is its record's offset,
 * its term is the batch's leader epoch. The log is all it persists. It votes for nobody else, and its term is in its log
 * from the first entry on: a term of which no entry is durable was shown to nobody and may be used again.
 */
export interface SoleVoter {
  /**
   * Appends entries, all in one commit, and resolves when they are committed. One call at a time. Rejects as `Log.append`
   * does; nothing of them is there then.
   */
  commit(values: readonly Uint8Array[]): Promise<void>
}

const RECORDS_PER_BATCH = 10_000
/** Alone there is no one to send to or wait for; what bounds proposals is the queue before them. */
const OPTIONS: Omit<RaftOptions, 'self'> = {
  electionTicks: 2,
  heartbeatTicks: 1,
  maxMessageEntries: 1,
  maxMessageBytes: 1,
  maxInflightMessages: 1,
  maxInflightBytes: 1,
  maxUncommittedEntries: Number.MAX_SAFE_INTEGER,
  maxUncommittedBytes: Number.MAX_SAFE_INTEGER,
  maxPromotionLagEntries: 0,
}

/** The voter over `log`, all of which is committed as far as it is durable; `lastTerm` is the newest term in it. */
export function createSoleVoter(log: Log, clock: Clock, self: MemberId, lastTerm: number): SoleVoter {
  let raft: Raft | null = null
  let term = lastTerm

  /** Up with what is durable, as after a start; it leads from the next entry on. */
  function come(): Raft {
    const config = { voters: [self], learners: [] }
    const snapshot = { index: log.durableEndOffset() - 1, term, config }
    assert(log.endOffset() === log.durableEndOffset(), 'the metadata log ends beyond what is durable')
    const restored = { hardState: { term, vote: null }, snapshot, entries: [] }
    return createRaft({ ...OPTIONS, self }, restored, 0)
  }

  return {
    commit: async values => {
      const leader = raft ?? come()
      raft = null
      let entries: readonly Entry[] = []
      let ticket = 0
      let committedTo = leader.commit

      function act(input: Input): void {
        const { write, committed } = step(leader, input, 0)
        committedTo = committed.at(-1)?.index ?? committedTo
        if (write === null) return
        entries = [...entries, ...write.entries]
        ticket = write.ticket
        // Term and vote alone are durable as soon as said, see above.
        if (write.entries.length === 0) act({ t: 'persisted', ticket })
      }

      if (leader.role !== 'leader') act({ t: 'campaign' })
      term = leader.term
      act({ t: 'propose', data: values })
      const last = leader.log.lastIndex()
      await append(log, entries, term, clock.nowMs())
      act({ t: 'persisted', ticket })
      assert(committedTo === last, `entry ${last} is durable at the only voter and not committed`)
      // Nobody follows, so the log on the disk is all the memory of them that is needed.
      act({ t: 'snapshotted', index: last, keepFrom: last + 1 })
      // Only a voter whose writes succeed goes on; after a failure another comes up, in a term of its own.
      raft = leader
    },
  }
}

/** The first entry of a leader and those that go with it are one append: there whole or not at all. */
async function append(log: Log, entries: readonly Entry[], term: number, timestampMs: number): Promise<void> {
  const first = entries[0]?.index
  assert(first === log.endOffset(), `entry ${first} is not at the end of the metadata log`)
  const batches: Uint8Array[] = []
  for (let at = 0; at < entries.length; at += RECORDS_PER_BATCH) {
    const records = entries.slice(at, at + RECORDS_PER_BATCH).map(entry => ({
      key: null,
      value: recordValue(entry),
      headers: [],
      timestampMs,
    }))
    batches.push(buildBatch(records))
  }
  await log.append(concat(batches), { useReserve: true, leaderEpoch: term })
}

/** A leader's own first entry has no value, so that earlier versions pass over it. */
function recordValue({ payload }: Entry): Uint8Array | null {
  assert(payload.t !== 'config', 'a sole voter changes no members')
  return payload.t === 'data' ? payload.bytes : null
}
