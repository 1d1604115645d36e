/** Decides who may connect, and makes session and will durable before CONNACK. */

import type { EdgeMqttConfig } from '../../common/config-edge.ts'
import type { StateEntry } from '../../common/log/types.ts'
import type { Guard, GuardHost } from './guard.ts'
import type { Logger } from './logger.ts'
import type { ConnectHeader } from './packets.ts'
import { refusal, refusalOfMqtt5 } from './packets.ts'
import type { SessionLog } from './session-log.ts'
import type { Sessions } from './sessions.ts'
import type { MqttCounters } from './stats.ts'
import { isReserved, isTopicName } from './topic-filter.ts'
import type { Users } from './users.ts'
import type { Will, Wills } from './wills.ts'

/** Return codes of CONNACK (MQTT 3.1.1 table 3.1). */
const UNACCEPTABLE_VERSION = 1
const IDENTIFIER_REJECTED = 2
export const SERVER_UNAVAILABLE = 3
const BAD_CREDENTIALS = 4
const NOT_AUTHORIZED = 5

const SET_VERSION = 'set version 3.1.1'

/** Answers a CONNECT before aedes sees it: null lets it through. */
export function admitter(log: Logger, counters: MqttCounters): GuardHost['admit'] {
  return (guard, connect) => {
    const refused = refusalOf(connect)
    if (refused === null) return null
    counters.refusedConnects++
    log.warn({ client: connect.clientId, remote: guard.remote }, `connection refused: ${refused.reason}`)
    return refused.connack
  }
}

function refusalOf(connect: ConnectHeader): { connack: Buffer; reason: string } | null {
  if (connect.level === 5) {
    return {
      connack: refusalOfMqtt5(SET_VERSION),
      reason: `the client speaks MQTT 5; ${SET_VERSION} in its options`,
    }
  }
  // MQTT-3.1.2-2
  if (connect.level !== 3 && connect.level !== 4) {
    const reason = `the client speaks MQTT protocol level ${connect.level}; ${SET_VERSION} in its options`
    return { connack: refusal(UNACCEPTABLE_VERSION), reason }
  }
  // MQTT-3.1.3-8
  if (connect.clientId === '' && !connect.clean) {
    return { connack: refusal(IDENTIFIER_REJECTED), reason: 'a client with clean=0 needs a client id' }
  }
  if (connect.clientId.includes('\0')) {
    return { connack: refusal(IDENTIFIER_REJECTED), reason: 'the client id holds U+0000' }
  }
  return null
}

/** Why a will can't be taken, or null. */
export function willFault(will: Will): string | null {
  if (will.qos > 2) return 'the will has QoS 3' // MQTT-3.1.2-14
  if (!isTopicName(will.topic) || isReserved(will.topic)) return 'the will has no topic one may publish to'
  return null
}

/** Checks name and password; 0 or the return code of the refusal. */
export async function authenticate(
  config: Pick<EdgeMqttConfig, 'allowAnonymous'>,
  users: Users | null,
  user: string | undefined,
  password: Uint8Array | undefined,
): Promise<number> {
  // Without users the listeners are on loopback or anonymous by choice: listeners.ts saw to that.
  if (users === null || (user === undefined && config.allowAnonymous)) return 0
  if (user === undefined) return NOT_AUTHORIZED
  const verdict = await users.verify(user, password ?? new Uint8Array(0))
  if (verdict === 'busy') return SERVER_UNAVAILABLE
  return verdict ? 0 : BAD_CREDENTIALS
}

export interface OpeningParts {
  log: SessionLog
  sessions: Sessions
  wills: Wills
  maxStateBytes: number
}

/** Stores session and will of an authenticated client, in one commit; `done` gets 0 or the return code of the refusal. */
export function openSession(
  parts: OpeningParts,
  guard: Guard,
  clientId: string,
  clean: boolean,
  done: (returnCode: number) => void,
): void {
  const { log, sessions, wills } = parts
  const grows = guard.connectWill !== null || (!clean && sessions.session(clientId) === undefined)
  if (grows && log.stateBytes > parts.maxStateBytes) {
    done(SERVER_UNAVAILABLE)
    return
  }
  const entries: StateEntry[] = wills.cancel(clientId)
  if (guard.connectWill !== null) {
    const prepared = wills.prepare(clientId, guard.connectWill, guard.keepaliveMs / 1_500)
    guard.will = prepared.will
    entries.push(prepared.entry)
  }
  const session = clean ? null : sessions.begin(clientId)
  if (session !== null) entries.push(session)
  if (entries.length === 0) {
    done(0)
    return
  }
  log.append(null, entries, error => {
    if (error === undefined) {
      done(0)
      return
    }
    if (session !== null) sessions.forget(clientId)
    guard.will = null
    done(SERVER_UNAVAILABLE)
  })
}
