package authz_test

import (
	"testing"

	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/apiserver/authz"
)

// TestFlags: flags are refused in the words of kube-apiserver 1.36.3, where it has them.
func TestFlags(t *testing.T) {
	file := t.TempDir() + "/kubeconfig"
	write(t, file, `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]}`)
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{nil, ""},
		{[]string{"--authorization-mode=RBAC,AlwaysDeny"}, ""},
		{[]string{"--authorization-mode=Webhook,RBAC", "--authorization-webhook-config-file=" + file}, ""},
		{[]string{"--authorization-mode=RBAC,RBAC"}, `authorization-mode ["RBAC" "RBAC"] has mode specified more than once`},
		{[]string{"--authorization-mode=rbac,ABAC"}, `[authorization-mode "rbac" is not a valid mode, authorization-mode ABAC is not served by Skiff]`},
		{[]string{"--authorization-mode=Webhook"}, `authorization-mode Webhook's authorization config file not passed`},
		{[]string{"--authorization-webhook-config-file=" + file}, `cannot specify --authorization-webhook-config-file without mode Webhook`},
		{[]string{"--authorization-mode=Webhook", "--authorization-webhook-config-file=" + file, "--authorization-webhook-version=v2"},
			`invalid authorization config: unsupported webhook authorizer version "v2", supported versions are "v1", "v1beta1"`},
		{[]string{"--authorization-config=" + file, "--authorization-mode=RBAC"},
			"--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"},
		{[]string{"--authorization-config=" + file, "--authorization-webhook-cache-authorized-ttl=5m"},
			"--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"},
		{[]string{"--authorization-config=/none"}, "open /none: no such file or directory"},
	} {
		var config authz.Config
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		config.AddFlags(flags)
		if err := flags.Parse(c.flags); err != nil {
			t.Fatal(err)
		}
		got := ""
		if _, err := authz.Open(config); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.flags, got, c.want)
		}
	}
}
