import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import type { Address } from '../../../common/address.ts'
import { isLoopback } from '../../../common/address.ts'
import { TributaryError } from '../../../common/errors.ts'

/** Who may talk to the hub. */

export interface AccessRules {
  /** Any of them lets in; none: no token is asked for. */
  tokens: readonly string[]
  allowAnonymous: boolean
  address: Address
}

/** Throws `unauthorized` where a request with these headers is not to be served. */
export type AccessCheck = (headers: IncomingHttpHeaders) => void

/** Throws `config_invalid` where the hub would be open to a network without having been told so. */
export function refuseOpenListener(rules: AccessRules): void {
  const { tokens, allowAnonymous, address } = rules
  if (tokens.length > 0 || allowAnonymous || isLoopback(address.host)) return
  throw new TributaryError(
    'config_invalid',
    `--http ${address.host}:${address.port} is reachable from other machines and would let anybody in: ` +
      'give --token-file FILE, or say --allow-anonymous if that is meant',
  )
}

/** The check for `rules`. Tokens are compared by digest in constant time. */
export function createAccessCheck(rules: AccessRules): AccessCheck {
  if (rules.tokens.length === 0) return openHubCheck(rules)
  const digests = rules.tokens.map(digestOf)
  return headers => {
    const match = /^bearer +(\S+) *$/i.exec(headers.authorization ?? '')
    if (match === null) {
      throw new TributaryError(
        'unauthorized',
        'this hub asks for a token: send "Authorization: Bearer TOKEN" (--token-file of the command)',
      )
    }
    const given = digestOf(match[1] ?? '')
    let known = false
    for (const digest of digests) known = timingSafeEqual(digest, given) || known
    if (!known)
      throw new TributaryError('unauthorized', 'this token is not one of the hub’s: check --token-file')
  }
}

function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest()
}

/**
 * Without tokens, being able to connect is the only credential, and a browser on this machine can: web pages of
 * other sites (cross-site requests, WebSockets, DNS rebinding) must not write here through it.
 */
function openHubCheck(rules: AccessRules): AccessCheck {
  const loopbackOnly = isLoopback(rules.address.host)
  return headers => {
    const { host = '', origin } = headers
    if (origin !== undefined && originHost(origin) !== host) {
      throw new TributaryError(
        'unauthorized',
        `a web page of ${origin} may not use this hub: it has no tokens to know its clients by`,
      )
    }
    if (loopbackOnly && host !== '' && !isLoopback(hostname(host))) {
      throw new TributaryError(
        'unauthorized',
        `this hub listens on ${rules.address.host} for this machine alone, and was called "${host}": ` +
          'use 127.0.0.1 or localhost, or start the hub with --token-file',
      )
    }
  }
}

function originHost(origin: string): string | null {
  return URL.canParse(origin) ? new URL(origin).host : null
}

function hostname(host: string): string {
  return host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
}
