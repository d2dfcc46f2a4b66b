package authz

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/expression"
)

// entry is an authorizer as it is configured, with its conditions compiled.
type entry struct {
	apiserverv1.AuthorizerConfiguration
	conditions []*expression.Question
}

// read reads a file. required are types that it must name.
func read(path string, required []string) (order []entry, data []byte, err error) {
	if data, err = os.ReadFile(path); err != nil {
		return nil, nil, err
	}
	order, err = parse(data, required)
	return order, data, err
}

// parse decodes and validates what a file says.
func parse(data []byte, required []string) ([]entry, error) {
	file, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("failed to load AuthorizationConfiguration from file: %w", err)
	}
	order, problems := validate(file)
	if len(problems) > 0 {
		return nil, problems.ToAggregate()
	}
	return order, checkNames(order, required)
}

func decode(data []byte) (*apiserverv1.AuthorizationConfiguration, error) {
	if len(data) == 0 {
		return &apiserverv1.AuthorizationConfiguration{}, nil
	}
	obj, err := runtime.Decode(decoder, data)
	if err != nil {
		return nil, err
	}
	file, ok := obj.(*apiserverv1.AuthorizationConfiguration)
	if !ok {
		return nil, fmt.Errorf("expected AuthorizationConfiguration, got %T", obj)
	}
	for _, a := range file.Authorizers {
		if a.Webhook != nil {
			setDefaults(a.Webhook)
		}
	}
	return file, nil
}

// decoder is strict. The older versions of the file have the same fields.
var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	utilruntime.Must(apiserverv1.AddToScheme(scheme))
	for _, version := range []string{"v1beta1", "v1alpha1"} {
		gvk := apiserverv1.SchemeGroupVersion.WithKind("AuthorizationConfiguration")
		gvk.Version = version
		scheme.AddKnownTypeWithName(gvk, &apiserverv1.AuthorizationConfiguration{})
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

func setDefaults(w *apiserverv1.WebhookConfiguration) {
	if w.AuthorizedTTL.Duration == 0 {
		w.AuthorizedTTL.Duration = 5 * time.Minute
	}
	if w.UnauthorizedTTL.Duration == 0 {
		w.UnauthorizedTTL.Duration = 30 * time.Second
	}
	w.CacheAuthorizedRequests = ptr.To(ptr.Deref(w.CacheAuthorizedRequests, true))
	w.CacheUnauthorizedRequests = ptr.To(ptr.Deref(w.CacheUnauthorizedRequests, true))
}

// checkNames wants authorizers that are no webhooks to be named after their types, and the required ones to be there.
func checkNames(order []entry, required []string) error {
	var problems []error
	var seen []string
	for _, e := range order {
		if e.Type == typeWebhook {
			continue
		}
		seen = append(seen, e.Type)
		if want := strings.ToLower(e.Type); e.Name != want {
			problems = append(problems, fmt.Errorf("expected name %s for authorizer %s instead of %s", want, e.Type, e.Name))
		}
	}
	missing := slices.DeleteFunc(slices.Clone(required), func(kind string) bool { return slices.Contains(seen, kind) })
	if len(missing) > 0 {
		problems = append(problems, fmt.Errorf("missing required types: %v", missing))
	}
	return utilerrors.NewAggregate(problems)
}
