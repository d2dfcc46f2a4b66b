package apiserver_test

import (
	"encoding/pem"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestExtensionServersAreTold checks what extension API servers read to trust
// this one.
func TestExtensionServersAreTold(t *testing.T) {
	var ca []byte
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		ca = o.ClientCA
		o.FrontProxyCA, o.FrontProxyNames = ca, []string{"front-proxy-client"}
	})
	client := clientset(t, apiservertest.Config(s, "admin"))
	told, err := client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"client-ca-file":                     string(ca),
		"requestheader-client-ca-file":       string(ca),
		"requestheader-allowed-names":        `["front-proxy-client"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	} {
		if told.Data[key] != want {
			t.Errorf("%s: got %q, want %q", key, told.Data[key], want)
		}
	}
	if block, _ := pem.Decode([]byte(told.Data["client-ca-file"])); block == nil {
		t.Error("client-ca-file is not PEM")
	}
}
