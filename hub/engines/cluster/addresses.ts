import { isAnyHost, parseAddress } from '../../../common/address.ts'
import type { Image } from '../../controller/image.ts'

/** Where edges and clients find the nodes that are alive, as those said; empty where there is but one. */
export function clientAddresses(image: Image): string[] {
  const nodes = image.nodes()
  if (nodes.length < 2) return []
  return nodes.flatMap(({ httpAddress, fenced }) => {
    const address = parseAddress(httpAddress)
    const isUsable = address !== null && address.port !== 0 && !isAnyHost(address.host)
    return isUsable && !fenced ? [httpAddress] : []
  })
}
