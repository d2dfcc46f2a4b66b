// Package e2e is here for its imports: they keep in go.mod what the official
// conformance suite, k8s.io/kubernetes/test/e2e, is built from.
package e2e

import (
	"testing"

	"k8s.io/kubernetes/test/e2e"
)

// TestE2E is the entry of the suite.
func TestE2E(t *testing.T) { e2e.RunE2ETests(t) }
