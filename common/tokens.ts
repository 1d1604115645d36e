import { TributaryError } from './errors.ts'

/** The tokens of a token file: one a line, `#` starts a comment line. At least one; throws `config_invalid`. */
export function parseTokens(file: string, text: string): string[] {
  const tokens = text
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))
  // RFC 6750 section 2.1: what an Authorization header can carry.
  const wrong = tokens.findIndex(token => !/^[A-Za-z0-9\-._~+/]+=*$/.test(token))
  if (wrong >= 0) {
    throw new TributaryError(
      'config_invalid',
      `${file}: token ${wrong + 1} has characters other than letters, digits and -._~+/, with = at the end`,
    )
  }
  if (tokens.length === 0) {
    throw new TributaryError(
      'config_invalid',
      `${file} has no token: put one a line, such as from openssl rand -hex 32`,
    )
  }
  return tokens
}
