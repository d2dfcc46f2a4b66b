package apiextensions

import (
	"slices"
	"strings"

	internal "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/transport"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/check"
)

// reviewVersions are those of ConversionReview that kube-apiserver knows.
var reviewVersions = []string{"v1", "v1beta1"}

func (r rules) conversion(c *internal.CustomResourceConversion, at *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := check.OneOf(c.Strategy, at.Child("strategy"), internal.NoneConverter, internal.WebhookConverter)
	if c.Strategy == internal.WebhookConverter {
		errs = append(errs, r.client(c.WebhookClientConfig, at.Child("webhookClientConfig"))...)
		return append(errs, r.reviews(c.ConversionReviewVersions, at.Child("conversionReviewVersions"))...)
	}
	const useless = "should not be set when strategy is not set to Webhook"
	if c.WebhookClientConfig != nil {
		errs = append(errs, field.Forbidden(at.Child("webhookClientConfig"), useless))
	}
	if len(c.ConversionReviewVersions) > 0 {
		errs = append(errs, field.Forbidden(at.Child("conversionReviewVersions"), useless))
	}
	return errs
}

func (r rules) client(c *internal.WebhookClientConfig, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case c == nil:
		return field.ErrorList{field.Required(at, "required when strategy is set to Webhook")}
	case (c.URL == nil) == (c.Service == nil):
		errs = field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		errs = check.WebhookURL(*c.URL, at.Child("url"))
	default:
		errs = check.WebhookService(c.Service.Namespace, c.Service.Name, c.Service.Port, ptr.Deref(c.Service.Path, ""), at.Child("service"))
	}
	if len(c.CABundle) > 0 && !r.anyCABundle {
		if err := checkCABundle(c.CABundle); err != nil {
			errs = append(errs, field.Invalid(at.Child("caBundle"), c.CABundle, err.Error()))
		}
	}
	return errs
}

// checkCABundle reports whether clients can be made that trust the bundle.
func checkCABundle(bundle []byte) error {
	_, err := transport.TLSConfigFor(&transport.Config{TLS: transport.TLSConfig{CAData: bundle}})
	return err
}

func (r rules) reviews(versions []string, at *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for i, v := range versions {
		if slices.Contains(versions[:i], v) {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		for _, problem := range validation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(at.Index(i), v, problem))
		}
	}
	if r.knownReview && !knowsReview(versions) {
		errs = append(errs, field.Invalid(at, versions, "must include at least one of "+strings.Join(reviewVersions, ", ")))
	}
	return errs
}

func knowsReview(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions, v) })
}
