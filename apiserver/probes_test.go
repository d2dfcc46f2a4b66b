package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestHealthChecks: the checks that people name in scripts are there, in the sets in which kube-apiserver has them.
func TestHealthChecks(t *testing.T) {
	s := apiservertest.Start(t, nil)
	for path, want := range map[string]string{
		"/healthz?verbose":                     "[+]ping ok\n[+]loopback-serving-certificate ok\n[+]etcd ok\nhealthz check passed\n",
		"/livez?verbose":                       "[+]ping ok\n[+]loopback-serving-certificate ok\n[+]etcd ok\nlivez check passed\n",
		"/readyz?verbose":                      "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n[+]shutdown ok\nreadyz check passed\n",
		"/livez/loopback-serving-certificate":  "ok",
		"/readyz/loopback-serving-certificate": "404 page not found\n",
	} {
		if got := fetch(t, s, path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	const slis = `kubernetes_healthchecks_total{name="etcd-readiness",status="success",type="readyz"} 1`
	if got := fetch(t, s, "/metrics/slis"); !strings.Contains(got, slis) || !strings.Contains(got, `kubernetes_healthcheck{name="ping",type="livez"} 1`) {
		t.Errorf("got %s, want %s in it", got, slis)
	}
}

// TestExpiredCertificate: a server whose certificate no client accepts any more is not alive, and counts that it is not.
func TestExpiredCertificate(t *testing.T) {
	s := apiservertest.Start(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{selfSigned(t, time.Now().Add(-time.Minute))}})
	}()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get("https://" + l.Addr().String() + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	client.CloseIdleConnections()
	if resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("/livez: got %d, want 500", resp.StatusCode)
	}
	const slis = `kubernetes_healthchecks_total{name="loopback-serving-certificate",status="error",type="livez"} 1`
	if got := fetch(t, s, "/metrics/slis"); !strings.Contains(got, slis) {
		t.Errorf("got %s, want %s in it", got, slis)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if got := fetch(t, s, "/readyz"); !strings.Contains(got, "[-]shutdown failed: reason withheld") {
		t.Errorf("after the end: got %s, want that shutdown failed", got)
	}
}

// TestPodSecurityMetrics: evaluations are counted as kube-apiserver counts them.
func TestPodSecurityMetrics(t *testing.T) {
	s := apiservertest.Start(t, nil)
	requests := []struct{ method, path, body string }{
		{"POST", "/api/v1/namespaces", `{"metadata":{"name":"strict","labels":{"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/enforce-version":"v1.30",
			"pod-security.kubernetes.io/warn":"restricted","pod-security.kubernetes.io/audit":"restricted","pod-security.kubernetes.io/audit-version":"v1.99"}}}`},
		{"POST", "/api/v1/namespaces/strict/serviceaccounts", `{"metadata":{"name":"default"}}`},
		{"POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"default"}}`},
		{"POST", "/api/v1/namespaces/default/pods", podBody(false)},
		{"POST", "/api/v1/namespaces/strict/pods", podBody(false)},
		{"POST", "/api/v1/namespaces/strict/pods", podBody(true)},
		{"POST", "/api/v1/namespaces/strict/podtemplates", `{"metadata":{"name":"t"},"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}`},
	}
	for _, r := range requests {
		send(t, s, r.method, r.path, r.body)
	}
	metrics := fetch(t, s, "/metrics")
	for _, want := range []string{
		`evaluations_total{decision="allow",mode="enforce",policy_level="privileged",policy_version="latest",request_operation="create",resource="pod",subresource=""} 1`,
		`evaluations_total{decision="allow",mode="enforce",policy_level="privileged",policy_version="latest",request_operation="update",resource="pod",subresource=""} 0`,
		`evaluations_total{decision="allow",mode="enforce",policy_level="baseline",policy_version="v1.30",request_operation="create",resource="pod",subresource=""} 1`,
		`evaluations_total{decision="deny",mode="enforce",policy_level="baseline",policy_version="v1.30",request_operation="create",resource="pod",subresource=""} 1`,
		`evaluations_total{decision="deny",mode="audit",policy_level="restricted",policy_version="future",request_operation="create",resource="pod",subresource=""} 2`,
		`evaluations_total{decision="deny",mode="warn",policy_level="restricted",policy_version="latest",request_operation="create",resource="pod",subresource=""} 1`,
		`evaluations_total{decision="deny",mode="warn",policy_level="restricted",policy_version="latest",request_operation="create",resource="controller",subresource=""} 1`,
		`exemptions_total{request_operation="create",resource="pod",subresource=""} 0`,
	} {
		if !strings.Contains(metrics, "pod_security_"+want+"\n") {
			t.Errorf("no %s in\n%s", want, strings.Join(regexp.MustCompile("(?m)^pod_security.*$").FindAllString(metrics, -1), "\n"))
		}
	}
}

func podBody(privileged bool) string {
	if privileged {
		return `{"metadata":{"generateName":"p"},"spec":{"containers":[{"name":"c","image":"i","securityContext":{"privileged":true}}]}}`
	}
	return `{"metadata":{"generateName":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
}

func fetch(t *testing.T, s *apiserver.Server, path string) string {
	return send(t, s, http.MethodGet, path, "")
}

func send(t *testing.T, s *apiserver.Server, method, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://in-process"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := apiservertest.Config(s, "admin").Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func selfSigned(t *testing.T, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestRequestMetrics: what dashboards ask for is there, and dry runs are told apart without letting clients invent labels.
func TestRequestMetrics(t *testing.T) {
	s := apiservertest.Start(t, nil)
	for _, query := range []string{"", "?dryRun=All", "?dryRun=All&dryRun=All", "?dryRun=invented", "?xdryRun=1"} {
		send(t, s, "POST", "/api/v1/namespaces/default/configmaps"+query, `{"metadata":{"generateName":"c"}}`)
	}
	fetch(t, s, "/api/v1/namespaces/default/configmaps")
	metrics := fetch(t, s, "/metrics")
	const on = `component="apiserver",`
	for _, want := range []string{
		`apiserver_request_total{code="201",` + on + `dry_run="",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 2`,
		`apiserver_request_total{code="201",` + on + `dry_run="All",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 2`,
		`apiserver_request_total{code="422",` + on + `dry_run="invalid",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 1`,
		`apiserver_request_sli_duration_seconds_count{` + on + `group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 2`,
		`apiserver_request_duration_seconds_count{` + on + `dry_run="All",group="",resource="configmaps",scope="namespace",subresource="",verb="POST",version="v1"} 2`,
		`apiserver_response_sizes_count{` + on + `group="",resource="configmaps",scope="namespace",subresource="",verb="LIST",version="v1"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s in\n%s", want, strings.Join(regexp.MustCompile("(?m)^apiserver_request_total.*$").FindAllString(metrics, -1), "\n"))
		}
	}
	if !strings.Contains(metrics, `kubernetes_build_info{`) {
		t.Error("no kubernetes_build_info")
	}
}
