//go:build programs

package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// kueueSuites are folders of suites that need no other project's resources, by their programs.
var kueueSuites = map[string]string{
	"core": "webhook/core", "conversion": "conversion", "controllers": "controller/core", "job": "controller/jobs/job", "scheduler": "scheduler",
}

// TestKueue runs suites of Kueue, with a kube-apiserver and an etcd that envtest starts, which are Skiff.
func TestKueue(t *testing.T) {
	dir := module(t, "kueue", "sigs.k8s.io/kueue")
	assets, project := writeAssets(t), kueueProject(t, dir)
	for program, folder := range kueueSuites {
		t.Run(folder, func(t *testing.T) {
			runSuite(t, filepath.Join("kueue", program+".test"), filepath.Join(dir, "test", "integration", "singlecluster", folder), nil,
				"KUBEBUILDER_ASSETS="+assets, "PROJECT_DIR="+filepath.Join(project, "any"))
		})
	}
}

// kueueProject is a folder with what the suites look for in that of the project, where some of it is made first.
func kueueProject(t *testing.T, dir string) string {
	t.Helper()
	project := t.TempDir()
	for _, folder := range []string{"config/components/webhook", "hack/testing/agnhost"} {
		if err := os.CopyFS(filepath.Join(project, folder), os.DirFS(filepath.Join(dir, folder))); err != nil {
			t.Fatal(err)
		}
	}
	definitions := filepath.Join("config", "components", "crd")
	made, err := exec.CommandContext(t.Context(), filepath.Join(os.Getenv("SKIFF_TOOLS"), "kubectl"), "kustomize", filepath.Join(dir, definitions)).Output()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(project, definitions, "_output")
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "definitions.yaml"), made, 0o600); err != nil {
		t.Fatal(err)
	}
	return project
}
