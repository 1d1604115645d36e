import { utf8 } from '../../../common/bytes.ts'
import type { ConfigChange, MemberId, Message, Ready } from '../../../hub/raft/types.ts'
import { memberId } from '../../../hub/raft/types.ts'
import { configText, entriesText, entryText, messageText, nameOf, placeOf, writeText } from './describe.ts'
import type { Member } from './stage.ts'
import { emptyDisk, founding, NOBODY, Stage, seat } from './stage.ts'

/**
 * Runs a script and gives it back with what came of each command. Lines that begin with `>` are commands, with `#`
 * remarks; all others are made anew. A member is its node's number, or `node/directory`.
 *
 * found 1 2 3 [learners 4]     members that start together          join 4           a member that knows nobody
 * elect 1                      1 becomes leader, untold             limit name n     an option of all, before they start
 * tick 1 [n], campaign 1       time, standing at once               patience 2 0.5   what chance gives it from now on
 * propose 1 a b ...            entries at a member                  change 1 promote 4 (add-learner, demote, remove)
 * transfer 1 2                 1 hands over to 2                    snapshot 1 [n]   keeps the last n entries
 * sync 1 [n]                   n writes (all) become durable        crash 1, restart 1
 * deliver [1] 2, drop [1] 2    the messages (from 1) to 2           repeat [1] 2     they come twice
 * cut 1 [2], heal              links both ways; of 1 to all         settle           sync and deliver until all is quiet
 * show                         where everyone stands
 */
export function runScript(text: string): string {
  const lines: string[] = []
  const players = createPlayers(line => lines.push(`  ${line}`))
  for (const line of text.split('\n')) {
    if (!line.startsWith('>') && !line.startsWith('#')) continue
    lines.push(line)
    if (line.startsWith('#')) continue
    const [command = '', ...words] = line.slice(1).trim().split(/\s+/)
    const run = players.get(command)
    if (run === undefined) throw new Error(`the script says "${line}", which is no command`)
    run(words)
  }
  return `${lines.join('\n')}\n`
}

const CHANGES: readonly ConfigChange['t'][] = ['add-learner', 'promote', 'demote', 'remove']

function idOf(word = ''): MemberId {
  const [node, directory] = word.split('/')
  return memberId(Number(node), directory ?? 'd')
}

function createPlayers(tellAll: (line: string) => void): Map<string, (words: string[]) => void> {
  const roles = new Map<MemberId, string>()
  const cuts = new Set<string>()
  let quiet = false
  const stage = new Stage({
    ready: (member, _input, ready) => tell(member, ready),
    sent: message => say(messageText(message)),
  })

  function say(line: string): void {
    if (!quiet) tellAll(line)
  }

  function tell({ id }: Member, { write, committed, outcome, status, send }: Ready): void {
    const name = nameOf(id)
    const role = `${status.role} in term ${status.term}`
    if (roles.get(id) !== role) say(`${name} is ${role}`)
    roles.set(id, role)
    if (outcome?.taken === false) say(`${name} refuses: ${outcome.reason}`)
    if (write !== null) say(`${name} writes ${writeText(write)}`)
    for (const { message, after } of send)
      if (after > 0) say(`${name} holds until #${after}: ${messageText(message)}`)
    if (committed.length > 0) say(`${name} applies ${entriesText(committed)}`)
  }

  const passes = ({ from, to }: Message): boolean => !cuts.has(`${from} ${to}`)
  const ids = (words: readonly string[]): MemberId[] => words.map(idOf)

  /** Takes the messages to the last member named, from the one before it, off the network. */
  function taken(words: readonly string[]): Message[] {
    const [to, from] = ids(words).reverse()
    const fits = (message: Message): boolean =>
      message.to === to && (from === undefined || message.from === from)
    const found = stage.network.filter(fits)
    stage.network = stage.network.filter(message => !fits(message))
    return found
  }

  function show(): void {
    for (const { id, raft, disk } of stage.members.values()) {
      if (raft === null) {
        say(`${nameOf(id)} is down; disk to ${placeOf(disk.entries.at(-1) ?? disk.snapshot)}`)
        continue
      }
      const { role, term, commit, leader, log, configs } = raft
      const entries = log.range(log.firstIndex(), log.lastIndex()).map(entryText)
      const led = leader === null ? 'no leader' : `leader ${nameOf(leader)}`
      say(`${nameOf(id)} ${role} term ${term}, ${led}, commit ${commit}, ${configText(configs.current())}`)
      say(`  log [${entries.join(', ')}]`)
      for (const [member, { mode, match, next }] of raft.progress) {
        say(`  ${nameOf(member)}: ${mode} match ${match} next ${next}`)
      }
    }
  }

  return new Map<string, (words: string[]) => void>([
    [
      'found',
      words => {
        const at = words.indexOf('learners')
        const [voters, learners] = at < 0 ? [words, []] : [words.slice(0, at), words.slice(at + 1)]
        const mark = founding(voters.map(Number), learners.map(Number))
        for (const word of [...voters, ...learners]) stage.add(seat(Number(word)), emptyDisk(mark))
      },
    ],
    [
      'limit',
      ([name, value]) => {
        stage.options = { ...stage.options, [String(name)]: Number(value) }
      },
    ],
    [
      'elect',
      ([word]) => {
        quiet = true
        stage.step(idOf(word), { t: 'campaign' })
        stage.settle()
        quiet = false
      },
    ],
    ['join', ([word]) => void stage.add(idOf(word), emptyDisk({ ...founding([]), config: NOBODY }))],
    [
      'tick',
      ([word, count = '1']) => {
        for (let left = Number(count); left > 0; left--) stage.step(idOf(word), { t: 'tick' })
      },
    ],
    ['campaign', ([word]) => void stage.step(idOf(word), { t: 'campaign' })],
    [
      'patience',
      ([word, random]) => {
        stage.member(idOf(word)).random = () => Number(random)
      },
    ],
    [
      'propose',
      ([word, ...data]) => void stage.step(idOf(word), { t: 'propose', data: data.map(each => utf8(each)) }),
    ],
    [
      'change',
      ([word, how, member]) => {
        const t = CHANGES.find(known => known === how)
        if (t === undefined) throw new Error(`"${how}" is no change`)
        stage.step(idOf(word), { t: 'change', change: { t, member: idOf(member) } })
      },
    ],
    ['transfer', ([word, to]) => void stage.step(idOf(word), { t: 'transfer', to: idOf(to) })],
    [
      'snapshot',
      ([word, kept = '0']) => {
        const { applied, configs, log } = stage.raft(idOf(word))
        const { disk } = stage.member(idOf(word))
        disk.snapshot = { index: applied, term: log.termAt(applied) ?? 0, config: configs.at(applied) }
        disk.entries = disk.entries.filter(entry => entry.index > applied)
        const keepFrom = Math.max(0, applied + 1 - Number(kept))
        stage.step(idOf(word), { t: 'snapshotted', index: applied, keepFrom })
      },
    ],
    [
      'sync',
      ([word, count = '1000']) => {
        for (let left = Number(count); left > 0 && stage.sync(idOf(word)); left--);
      },
    ],
    [
      'crash',
      ([word]) => {
        stage.crash(idOf(word))
        roles.delete(idOf(word))
      },
    ],
    ['restart', ([word]) => stage.start(idOf(word))],
    [
      'deliver',
      words => {
        for (const message of taken(words)) stage.deliver(message)
      },
    ],
    ['drop', words => void taken(words)],
    [
      'repeat',
      words => {
        for (const message of taken(words)) {
          stage.deliver(message)
          stage.deliver(message)
        }
      },
    ],
    [
      'cut',
      ([word, other]) => {
        const from = idOf(word)
        const others = other === undefined ? [...stage.members.keys()] : [idOf(other)]
        for (const to of others) cuts.add(`${from} ${to}`).add(`${to} ${from}`)
      },
    ],
    ['heal', () => cuts.clear()],
    ['settle', () => stage.settle(passes)],
    ['show', show],
  ])
}
