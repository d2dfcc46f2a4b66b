package custom

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

const (
	// callTime is how long a conversion may take.
	callTime = 30 * time.Second
	// mostAnswer is how much a webhook may answer, in bytes.
	mostAnswer = 64 << 20
)

// webhook converts objects by asking a program for it.
type webhook struct {
	url     string
	reviews string // apiVersion of the reviews sent
	client  *http.Client
}

// newWebhook is the webhook of a conversion. A Service is reached by its
// endpoints: no rules of the host are needed for it.
func newWebhook(c *apiextensionsv1.WebhookConversion, cluster resource.Cluster, dial reach.Dial) (*webhook, error) {
	config := c.ClientConfig
	h := &webhook{}
	for _, version := range c.ConversionReviewVersions {
		if version == "v1" || version == "v1beta1" {
			h.reviews = apiextensionsv1.GroupName + "/" + version
			break
		}
	}
	security := &tls.Config{}
	if bundle := bytes.TrimSpace(config.CABundle); len(bundle) > 0 {
		security.RootCAs = x509.NewCertPool()
		if !security.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, errors.New("the CA bundle of the conversion webhook has no certificate")
		}
	}
	transport := &http.Transport{TLSClientConfig: security, DialContext: dial, MaxIdleConnsPerHost: 4, IdleConnTimeout: 90 * time.Second}
	switch s := config.Service; {
	case config.URL != nil:
		h.url = *config.URL
	default:
		security.ServerName = s.Name + "." + s.Namespace + ".svc"
		host := net.JoinHostPort(security.ServerName, strconv.Itoa(int(*s.Port)))
		path := ""
		if s.Path != nil {
			path = "/" + strings.TrimPrefix(*s.Path, "/")
		}
		h.url = "https://" + host + path
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == host { // else it is a redirect
				found, err := reach.Address(ctx, cluster, s.Namespace, s.Name, *s.Port)
				if err != nil {
					return nil, err
				}
				address = found
			}
			return dial(ctx, network, address)
		}
	}
	h.url += "?timeout=" + callTime.String()
	h.client = &http.Client{Transport: reach.Limit{Next: transport, Most: mostAnswer}, Timeout: callTime, CheckRedirect: reach.Redirects}
	return h, nil
}

// review is a ConversionReview of either version.
type review struct {
	metav1.TypeMeta `json:",inline"`
	Request         *apiextensionsv1.ConversionRequest  `json:"request,omitempty"`
	Response        *apiextensionsv1.ConversionResponse `json:"response,omitempty"`
}

// convert asks for objects, all of one kind, in a version. What it answers has
// the metadata of the originals, but for labels and annotations.
func (h *webhook) convert(objects []*object, to schema.GroupVersion) ([]*object, error) {
	failed := func(format string, args ...any) error {
		return fmt.Errorf("conversion webhook for %v "+format, append([]any{objects[0].GroupVersionKind()}, args...)...)
	}
	answer, err := h.ask(objects, to)
	if err != nil {
		return nil, failed("failed: %w", err)
	}
	if len(answer) != len(objects) {
		return nil, failed("returned %d objects, expected %d", len(answer), len(objects))
	}
	out := make([]*object, len(objects))
	for i, raw := range answer {
		u := &object{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			return nil, failed("returned invalid converted object at index %v: %w", i, err)
		}
		if got := u.GroupVersionKind().GroupVersion(); got != to {
			return nil, failed("returned invalid converted object at index %v: invalid groupVersion (expected %v, received %v)", i, to, got)
		}
		if err := same(objects[i], u); err != nil {
			return nil, failed("returned invalid object: %w", err)
		}
		if err := restore(objects[i], u); err != nil {
			return nil, failed("returned invalid metadata: %w", err)
		}
		out[i] = u
	}
	return out, nil
}

func (h *webhook) ask(objects []*object, to schema.GroupVersion) ([]runtime.RawExtension, error) {
	if h.reviews == "" {
		return nil, errors.New("no supported conversion review versions")
	}
	question := review{TypeMeta: metav1.TypeMeta{APIVersion: h.reviews, Kind: "ConversionReview"},
		Request: &apiextensionsv1.ConversionRequest{UID: uuid.NewUUID(), DesiredAPIVersion: to.String()}}
	for _, u := range objects {
		question.Request.Objects = append(question.Request.Objects, runtime.RawExtension{Object: u})
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	answered, err := h.client.Post(h.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer answered.Body.Close()
	text, err := io.ReadAll(answered.Body)
	if err != nil {
		return nil, err
	}
	if answered.StatusCode/100 != 2 {
		return nil, apierrors.NewGenericServerResponse(answered.StatusCode, http.MethodPost, schema.GroupResource{}, "", string(text), 0, true)
	}
	var answer review
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	return answer.objects(question.TypeMeta, question.Request.UID)
}

// objects are those of an answer that is one to the question.
func (r review) objects(want metav1.TypeMeta, uid types.UID) ([]runtime.RawExtension, error) {
	strict := strings.HasSuffix(want.APIVersion, "/v1") // the beta was not
	switch {
	case strict && r.TypeMeta != want:
		return nil, fmt.Errorf("expected webhook response of %v, got %v", want.GroupVersionKind(), r.GroupVersionKind())
	case r.Response == nil:
		return nil, errors.New("no response provided")
	case strict && r.Response.UID != uid:
		return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, r.Response.UID)
	case r.Response.Result.Status == metav1.StatusSuccess:
		return r.Response.ConvertedObjects, nil
	case r.Response.Result.Message != "":
		return nil, errors.New(r.Response.Result.Message)
	}
	return nil, fmt.Errorf("response.result.status was '%s', not 'Success'", r.Response.Result.Status)
}

// same requires a converted object to be the one that was to be converted.
func same(u, converted *object) error {
	for _, f := range []struct{ name, is, was string }{
		{"kind", converted.GetKind(), u.GetKind()}, {"name", converted.GetName(), u.GetName()},
		{"namespace", converted.GetNamespace(), u.GetNamespace()}, {"UID", string(converted.GetUID()), string(u.GetUID())},
	} {
		if f.is != f.was {
			return fmt.Errorf("must have the same %s: %v != %v", f.name, f.was, f.is)
		}
	}
	return nil
}

// restore gives converted the metadata of u with the labels and annotations of
// converted: a webhook may change no more of it.
func restore(u, converted *object) error {
	value, there := converted.Object["metadata"]
	if !there {
		return errors.New("missing metadata in converted object")
	}
	got, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata of type %T in converted object", value)
	}
	original, _ := u.Object["metadata"].(map[string]any)
	kept := runtime.DeepCopyJSON(original)
	if kept == nil {
		kept = make(map[string]any)
	}
	for name, check := range map[string]func(map[string]string) field.ErrorList{
		"labels": func(m map[string]string) field.ErrorList {
			return metavalidation.ValidateLabels(m, field.NewPath("metadata", "labels"))
		},
		"annotations": func(m map[string]string) field.ErrorList {
			return apivalidation.ValidateAnnotations(m, field.NewPath("metadata", "annotation"))
		},
	} {
		delete(kept, name)
		value := got[name]
		if value == nil {
			continue
		}
		m, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("invalid metadata.%s of type %T in converted object", name, value)
		}
		texts := make(map[string]string, len(m))
		for key, v := range m {
			text, ok := v.(string)
			if !ok {
				return fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, key, v)
			}
			texts[key] = text
		}
		if errs := check(texts); len(errs) > 0 {
			return errs.ToAggregate()
		}
		kept[name] = value
	}
	converted.Object["metadata"] = kept
	return nil
}
