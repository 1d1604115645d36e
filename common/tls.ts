import { X509Certificate } from 'node:crypto'
import { messageOf, systemErrorCode, TributaryError } from './errors.ts'

/** What TLS is made of, and what may be wrong with it between us and a hub, in words that say what to do. */

/** What an end of mutual TLS shows and whom it trusts, in PEM. */
export interface MutualTls {
  certPem: string
  keyPem: string
  caPem: string
}

/** Codes of Node's TLS for a certificate that no known authority vouches for (OpenSSL's X509_V_ERR names). */
const UNTRUSTED: ReadonlySet<string> = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
])

/** Why a hub was not reached, on one line, and what to do about it. */
export function dialProblem(error: unknown): string {
  const code = systemErrorCode(error) ?? ''
  const [why = ''] = messageOf(error).split('\n')
  if (UNTRUSTED.has(code)) return `its certificate is not trusted (${why}): name its authority with --ca`
  if (/wrong version number|packet length too long/i.test(why))
    return 'it does not speak TLS there: use ws: or http:, or another port'
  if (/EPROTO|ERR_SSL|ERR_TLS|CERT_/.test(code)) return why
  return `${why}: is the hub running there?`
}

/** The text of a PEM file with at least one certificate; throws `config_invalid` where it holds none that can be read. */
export function certificatesFrom(file: string, text: string): string {
  try {
    new X509Certificate(text)
  } catch (cause) {
    throw new TributaryError('config_invalid', `${file} holds no certificate in PEM`, { cause })
  }
  return text
}
