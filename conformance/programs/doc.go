// Package programs installs what others wrote, as their users do, and sees that
// it works: definitions of custom resources, Helm charts, aggregated APIs,
// operators with webhooks, a provider of OpenID Connect; and runs suites of others.
// make programs, make controller-runtime, make fluxcd-ssa and make kueue build the
// programs from their modules and run these tests, which have its name as their build
// tag; the versions are those of third_party/*/go.mod.
package programs
