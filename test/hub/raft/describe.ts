import { unreachable } from '../../../common/assert.ts'
import { utf8Text } from '../../../common/bytes.ts'
import type { Config, Entry, MemberId, Message, Position, Write } from '../../../hub/raft/types.ts'

/** The words of the transcripts. `5@2` is the entry at index 5 of term 2. */

/** A member by its node; by its directory too where that isn't its first. */
export function nameOf(member: MemberId): string {
  return member.endsWith('/d') ? member.slice(0, -2) : member
}

export function placeOf({ index, term }: Position): string {
  return `${index}@${term}`
}

export function configText({ voters, learners }: Config): string {
  const learning = learners.length === 0 ? '' : ` learners ${learners.map(nameOf).join(' ')}`
  return `voters ${voters.map(nameOf).join(' ')}${learning}`
}

export function entryText(entry: Entry): string {
  const { payload } = entry
  switch (payload.t) {
    case 'noop':
      return `${placeOf(entry)} noop`
    case 'data':
      return `${placeOf(entry)} "${utf8Text(payload.bytes)}"`
    case 'config':
      return `${placeOf(entry)} (${configText(payload.config)})`
    default:
      return unreachable(payload)
  }
}

export function entriesText(entries: readonly Entry[]): string {
  return entries.map(entryText).join(', ')
}

export function writeText({ ticket, hardState, snapshot, entries }: Write): string {
  const parts = [
    ...(hardState === null ? [] : [`term ${hardState.term} vote ${nameOf(hardState.vote ?? 'nobody')}`]),
    ...(snapshot === null ? [] : [`snapshot ${placeOf(snapshot)} (${configText(snapshot.config)})`]),
    ...(entries.length === 0 ? [] : [entriesText(entries)]),
  ]
  return `#${ticket} ${parts.join('; ')}`
}

export function messageText(message: Message): string {
  const { from, to, term } = message
  return `${nameOf(from)} -> ${nameOf(to)} term ${term} ${bodyText(message)}`
}

function bodyText(message: Message): string {
  switch (message.t) {
    case 'pre-vote':
      return `pre-vote for a log to ${placeOf(message.last)}`
    case 'vote':
      return `vote for a log to ${placeOf(message.last)}${message.transfer ? ', handed over' : ''}`
    case 'pre-vote-reply':
    case 'vote-reply':
      return `${message.t} ${message.granted ? 'yes' : 'no'}`
    case 'append': {
      const { prev, entries, commit } = message
      return `append behind ${placeOf(prev)} [${entriesText(entries)}] commit ${commit}`
    }
    case 'append-ok':
      return `append-ok to ${message.match}`
    case 'append-refused':
      return `append-refused behind ${message.prevIndex}, try ${placeOf(message.hint)}`
    case 'heartbeat':
      return `heartbeat commit ${message.commit}`
    case 'snapshot':
      return `snapshot ${placeOf(message.snapshot)}`
    case 'heartbeat-reply':
    case 'timeout-now':
      return message.t
    default:
      return unreachable(message)
  }
}
