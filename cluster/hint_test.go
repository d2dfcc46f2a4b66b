package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

// TestHintNamesTheKubeconfig sees that the last words of a start name a file that works: the one that was
// asked for.
func TestHintNamesTheKubeconfig(t *testing.T) {
	for name, asked := range map[string]string{"none asked for": "", "one asked for": "my.kubeconfig"} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			here, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			c, err := Config{DataDir: "data", Kubeconfig: asked, Out: &out}.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			r := &run{Config: c, progress: newProgress(c.Out)}
			if r.pki, err = OpenPKI(filepath.Join(c.DataDir, "pki")); err != nil {
				t.Fatal(err)
			}
			if err := r.writeKubeconfigs(); err != nil {
				t.Fatal(err)
			}
			r.greet()
			_, hint, _ := strings.Cut(out.String(), "export KUBECONFIG=")
			file, _, _ := strings.Cut(hint, "\n")
			want := filepath.Join(here, "data", "admin.kubeconfig")
			if asked != "" {
				want = filepath.Join(here, asked)
			}
			if file != want {
				t.Errorf("the hint names %q, want %q", file, want)
			}
			if _, err := clientcmd.LoadFromFile(file); err != nil {
				t.Errorf("the file of the hint: %v", err)
			}
		})
	}
}
