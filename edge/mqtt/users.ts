/**
 * User names and passwords of MQTT clients: a file of lines `user:hash`, hashes made by `hashPassword`. Empty lines and lines
 * that start with `#` are skipped.
 */

import { createHmac, randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { utf8Text } from '../../common/bytes.ts'
import { TributaryError } from '../../common/errors.ts'

/** scrypt's cost: 16 MiB and some 30 ms a password. */
const COST = 16_384
const BLOCK_SIZE = 8
const KEY_BYTES = 32
const SALT_BYTES = 16
/** Scrypt runs on libuv's pool, which files need too. */
const MAX_CONCURRENT_HASHES = 2
/** Logins that wait for scrypt; beyond it they are refused, and clients come back later. */
const MAX_WAITING_HASHES = 1_000
/** Verified passwords remembered (as keyed digests), so that a fleet that reconnects does not pay scrypt again. */
const MAX_REMEMBERED = 10_000

const FORMAT = /^\$scrypt\$([A-Za-z0-9_-]{16,64})\$([A-Za-z0-9_-]{43})$/

function derive(password: string | Uint8Array, salt: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(password, salt, KEY_BYTES, { N: COST, r: BLOCK_SIZE }, (error, key) =>
      error ? reject(error) : resolve(key),
    )
  })
}

/** The hash of a password for a line of the users file: `$scrypt$<salt>$<key>`, base64url. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES)
  const key = await derive(password, salt)
  return `$scrypt$${salt.toString('base64url')}$${key.toString('base64url')}`
}

export interface Users {
  /** Whether the password is the user's; `busy` where too many logins wait already. */
  verify(user: string, password: Uint8Array): Promise<boolean | 'busy'>
}

/** Reads the users file's content; throws `config_invalid` naming the line. */
export function parseUsers(file: string, content: Uint8Array): Users {
  const hashes = new Map<string, { salt: Buffer; key: Buffer }>()
  for (const [index, line] of utf8Text(content).split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const colon = line.indexOf(':')
    const match = FORMAT.exec(line.slice(colon + 1).trim())
    if (colon < 1 || match === null) {
      throw new TributaryError(
        'config_invalid',
        `${file}, line ${index + 1}: expected <user>:$scrypt$<salt>$<key>; make one with: tributary mqtt-users add`,
      )
    }
    hashes.set(line.slice(0, colon), {
      salt: Buffer.from(match[1] ?? '', 'base64url'),
      key: Buffer.from(match[2] ?? '', 'base64url'),
    })
  }
  return usersOf(hashes)
}

function usersOf(hashes: ReadonlyMap<string, { salt: Buffer; key: Buffer }>): Users {
  const fingerprintKey = randomBytes(KEY_BYTES)
  const remembered = new Map<string, string>()
  const unknown = { salt: randomBytes(SALT_BYTES), key: randomBytes(KEY_BYTES) }
  const queue: (() => void)[] = []
  let running = 0

  async function turn<T>(work: () => Promise<T>): Promise<T> {
    if (running >= MAX_CONCURRENT_HASHES) await new Promise<void>(resolve => queue.push(resolve))
    running++
    try {
      return await work()
    } finally {
      running--
      queue.shift()?.()
    }
  }

  return {
    verify: async (user, password) => {
      const fingerprint = createHmac('sha256', fingerprintKey).update(password).digest('base64')
      if (remembered.get(user) === fingerprint) return true
      if (queue.length >= MAX_WAITING_HASHES) return 'busy'
      // An unknown user costs the same time, so that names can't be told by it.
      const known = hashes.get(user) ?? unknown
      const key = await turn(() => derive(password, known.salt))
      if (!hashes.has(user) || !timingSafeEqual(key, known.key)) return false
      if (remembered.size >= MAX_REMEMBERED) remembered.clear()
      remembered.set(user, fingerprint)
      return true
    },
  }
}
