#!/usr/bin/env node
// Plain old syntax on purpose: an old Node must get as far as the line that says which one is needed.
const parts = process.versions.node.split('.').map(Number)
if (parts[0] < 22 || (parts[0] === 22 && parts[1] < 18)) {
  console.error(
    `error: tributary needs Node 22.18 or newer, this is ${process.versions.node}: see https://nodejs.org`,
  )
  process.exit(1)
}
void import('../dist/main.js')
