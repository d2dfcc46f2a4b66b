//go:build programs

package programs

import (
	"path/filepath"
	"testing"
)

// notOfSkiff are tests that fail: those of MigrateAPIVersion begin with an error of kube-apiserver that Skiff does not make (see
// docs/testing.md), and JobWithTTL wants another error than that of its client, which asks as often as it may: chance has it which of
// them comes, with a kube-apiserver too.
const notOfSkiff = "^Test(Apply|ApplyAll)_MigrateAPIVersion|^TestWaitForSet_JobWithTTL$"

// TestFluxcdSSA runs the suites of Flux's library for server-side apply, with a kube-apiserver and an etcd that envtest starts,
// which are Skiff.
func TestFluxcdSSA(t *testing.T) {
	dir := module(t, "fluxcd-ssa", "github.com/fluxcd/pkg/ssa")
	assets := writeAssets(t)
	for folder, sources := range map[string]string{"ssa": dir, "jsondiff": filepath.Join(dir, "jsondiff")} {
		t.Run(folder, func(t *testing.T) {
			runSuite(t, filepath.Join("fluxcd-ssa", folder+".test"), sources, []string{"-test.skip=" + notOfSkiff}, "KUBEBUILDER_ASSETS="+assets)
		})
	}
}
