package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

const (
	adminKubeconfig = `
apiVersion: v1
kind: Config
clusters: [{name: skiff, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: kubernetes-admin, user: {token: fresh}}]
contexts: [{name: skiff, context: {cluster: skiff, user: kubernetes-admin}}]
current-context: skiff
`
	ownKubeconfig = `
apiVersion: v1
kind: Config
clusters: [{name: work, cluster: {server: "https://work"}}, {name: skiff, cluster: {server: "https://old"}}]
users: [{name: kubernetes-admin, user: {token: of-work}}, {name: skiff, user: {token: old}}]
contexts:
- {name: work, context: {cluster: work, user: kubernetes-admin}}
- {name: skiff, context: {cluster: skiff, user: skiff, namespace: mine}}
current-context: work
`
)

func runSkiff(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatalf("skiff %q: %v", args, err)
	}
	return out.String()
}

// TestKubeconfigIsMerged: a person's other clusters stay as they are, and what stood there of this one is replaced.
func TestKubeconfigIsMerged(t *testing.T) {
	for name, before := range map[string]string{"there is one": ownKubeconfig, "there is none": ""} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			own := filepath.Join(dir, "home", "config")
			t.Setenv("KUBECONFIG", own)
			if err := os.WriteFile(filepath.Join(dir, "admin.kubeconfig"), []byte(adminKubeconfig), 0o600); err != nil {
				t.Fatal(err)
			}
			if before != "" {
				if err := os.MkdirAll(filepath.Dir(own), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(own, []byte(before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				runSkiff(t, "kubeconfig", "--merge", "--data-dir", dir)
			}
			merged, err := clientcmd.LoadFromFile(own)
			if err != nil {
				t.Fatal(err)
			}
			current := merged.Contexts[merged.CurrentContext]
			if current == nil || merged.Clusters[current.Cluster].Server != "https://127.0.0.1:6443" || merged.AuthInfos[current.AuthInfo].Token != "fresh" {
				t.Fatalf("the current context %q is %+v", merged.CurrentContext, current)
			}
			if before == "" {
				return
			}
			work := merged.Contexts["work"]
			if work == nil || merged.Clusters[work.Cluster].Server != "https://work" || merged.AuthInfos[work.AuthInfo].Token != "of-work" {
				t.Errorf("the other context has become %+v", work)
			}
			if current.Namespace != "mine" {
				t.Errorf("the namespace has become %q", current.Namespace)
			}
			info, err := os.Stat(own)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file has mode %v (%v)", info.Mode(), err)
			}
			admin, err := os.ReadFile(filepath.Join(dir, "admin.kubeconfig"))
			if err != nil || string(admin) != adminKubeconfig {
				t.Errorf("the administrator's own file has changed: %s (%v)", admin, err)
			}
		})
	}
}

func TestKubeconfigIsPrinted(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "admin.kubeconfig"), []byte(adminKubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	printed, err := clientcmd.Load([]byte(runSkiff(t, "kubeconfig", "--data-dir", dir, "--context", "other")))
	if err != nil {
		t.Fatal(err)
	}
	if printed.CurrentContext != "other" || printed.Clusters["other"].Server != "https://127.0.0.1:6443" || printed.AuthInfos["other"].Token != "fresh" {
		t.Errorf("printed %+v", printed)
	}
}

// TestCompletion: the shells that people have get a script.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := runSkiff(t, "completion", shell); !bytes.Contains([]byte(out), []byte("skiff")) {
			t.Errorf("%s gets %q", shell, out)
		}
	}
	dir := t.TempDir()
	if out := runSkiff(t, "__complete", "logs", "--data-dir", dir, "a"); !bytes.HasPrefix([]byte(out), []byte("cluster\napiserver\nscheduler\n")) {
		t.Errorf("the parts complete as %q", out)
	}
}
