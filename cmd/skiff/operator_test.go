package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhichServerIsMeant: a kubeconfig that is named, else the cluster of a data directory that is named, else what kubectl
// would use.
func TestWhichServerIsMeant(t *testing.T) {
	dir := t.TempDir()
	write := func(name, server string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(adminKubeconfig, "https://127.0.0.1:6443", server)), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	named := write("named", "https://named")
	write("data/admin.kubeconfig", "https://data")
	for _, test := range []struct {
		operator
		want string
	}{
		{operator{}, "https://own"},
		{operator{dataDir: filepath.Join(dir, "data")}, "https://data"},
		{operator{kubeconfig: named}, "https://named"},
		{operator{kubeconfig: named, dataDir: filepath.Join(dir, "data")}, "https://named"},
	} {
		t.Setenv("KUBECONFIG", write("own", "https://own"))
		config, _, err := test.config()
		if err != nil || config.Host != test.want {
			t.Errorf("%+v: got %v %v, want %s", test.operator, config, err, test.want)
		}
	}
	t.Setenv("KUBECONFIG", "")
	if _, _, err := (&operator{dataDir: filepath.Join(dir, "none")}).config(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "none", "admin.kubeconfig")) {
		t.Errorf("no cluster there: %v", err)
	}
}
