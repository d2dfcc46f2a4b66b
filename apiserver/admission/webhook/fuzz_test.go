package webhook_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// FuzzAnswer: whatever a mutating webhook answers, a write is refused with an error of the API, or what is stored has the
// name and the namespace that a ConfigMap may have there.
func FuzzAnswer(f *testing.F) {
	var mu sync.Mutex
	var answer []byte
	var count atomic.Int64
	creations := rules()
	creations[0].Operations = []admissionregistrationv1.OperationType{admissionregistrationv1.Create}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Write(answer)
	}))
	f.Cleanup(s.Close)
	c, err := kubernetes.NewForConfig(apiservertest.Config(apiservertest.Start(f, nil), "admin"))
	if err != nil {
		f.Fatal(err)
	}
	_, err = c.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(f.Context(), &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "m.example.com", Rules: creations, ClientConfig: client(s), SideEffects: ptr.To(admissionregistrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1beta1"}, // which asks for no uid
		}}}, metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	const review = `{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","response":`
	for _, seed := range []string{
		"", "garbage", "{}", "[]", "null", review + "null}", review + `{"allowed":true}}`, review + `{"allowed":false,"status":{"code":-1}}}`,
		review + `{"allowed":false,"status":{"code":1e9,"reason":"x"}}}`, review + `{"allowed":true,"patch":"W10="}}`,
		review + `{"allowed":true,"patch":"W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2RhdGEifV0="}}`,         // remove /data
		review + `{"allowed":true,"patch":"W3sib3AiOiJhZGQiLCJwYXRoIjoiIiwidmFsdWUiOm51bGx9XQ=="}}`, // add null
		review + `{"allowed":true,"patch":"W251bGxd"}}`, review + `{"allowed":true,"warnings":["a\nb"],"auditAnnotations":{"":""}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		mu.Lock()
		answer = data
		mu.Unlock()
		made, err := create(t.Context(), c, fmt.Sprintf("c-%d", count.Add(1)))
		if err != nil {
			return
		}
		if made.Namespace != "default" || made.Name == "" || made.UID == "" {
			t.Errorf("%q made %v", data, made.ObjectMeta)
		}
		if err := c.CoreV1().ConfigMaps("default").Delete(t.Context(), made.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("%q made what cannot be deleted: %v", data, err)
		}
	})
}
