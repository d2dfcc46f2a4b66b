package admission_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestImagePolicyNotes: what the webhook wants to be written down is in the audit log, and so is that it failed and the pod runs anyway.
func TestImagePolicyNotes(t *testing.T) {
	hook := httptest.NewServer(&images{})
	defer hook.Close()
	dir := t.TempDir()
	save(t, dir+"/kubeconfig", kubeconfig(hook.URL))
	save(t, dir+"/file", "imagePolicy: {kubeConfigFile: "+dir+"/kubeconfig, defaultAllow: true, retryBackoff: 1}")
	save(t, dir+"/policy", "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {level: Metadata, resources: [{resources: [pods]}]}\n")
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Admission = admission.Choice{Enable: []string{"ImagePolicyWebhook"}, Disable: []string{disabled}, File: dir + "/file"}
		o.Audit.PolicyFile, o.Audit.File.Path = dir+"/policy", dir+"/log"
		o.Log = slog.New(slog.DiscardHandler)
	})
	pods := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin")).CoreV1().Pods("default")
	for _, c := range []struct {
		image, note string
		runs        bool
	}{{"bad", `"imagepolicywebhook.image-policy.k8s.io/k":"v"`, false}, {"garbage", `"imagepolicywebhook.image-policy.k8s.io/failed-open":"true"`, true}} {
		_, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: c.image}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: c.image}}}}, metav1.CreateOptions{})
		if (err == nil) != c.runs {
			t.Errorf("%s: %v", c.image, err)
		}
		log, err := os.ReadFile(dir + "/log")
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Split(bytes.TrimSpace(log), []byte("\n")); !strings.Contains(string(lines[len(lines)-1]), c.note) {
			t.Errorf("%s: %s is not in %s", c.image, c.note, lines[len(lines)-1])
		}
	}
}

// TestImagePolicyRedirect: the webhook is asked, and nobody else.
func TestImagePolicyRedirect(t *testing.T) {
	elsewhere := httptest.NewServer(&images{})
	defer elsewhere.Close()
	hook := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer hook.Close()
	dir := t.TempDir()
	save(t, dir+"/kubeconfig", kubeconfig(hook.URL))
	save(t, dir+"/file", "imagePolicy: {kubeConfigFile: "+dir+"/kubeconfig, retryBackoff: 1}")
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Admission = admission.Choice{Enable: []string{"ImagePolicyWebhook"}, Disable: []string{disabled}, File: dir + "/file"}
	})
	pods := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "admin")).CoreV1().Pods("default")
	_, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "good"}}}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("got %v, want a refusal", err)
	}
}
