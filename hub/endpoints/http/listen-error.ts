import type { Address } from '../../../common/address.ts'
import { formatAddress } from '../../../common/address.ts'
import { messageOf, systemErrorCode, TributaryError } from '../../../common/errors.ts'

/** Why the HTTP port can't be listened on, with the flag that changes it: `port_in_use`, `invalid_argument`, or the error as it is. */
export function listenError(error: unknown, address: Address): unknown {
  const place = formatAddress(address)
  switch (systemErrorCode(error)) {
    case 'EADDRINUSE':
      return new TributaryError(
        'port_in_use',
        `${place} is in use by another process: choose another address with --http HOST:PORT`,
        { cause: error, details: { flag: '--http', address: place } },
      )
    case 'EACCES':
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new TributaryError(
        'invalid_argument',
        `can't listen on ${place} (${messageOf(error)}): choose an address of this machine with --http HOST:PORT`,
        { cause: error, details: { flag: '--http', address: place } },
      )
    default:
      return error
  }
}
