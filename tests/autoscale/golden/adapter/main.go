// Loads deploy/prometheus/adapter.yaml with prometheus-adapter's own code and prints what it would ask Prometheus for, as
// JSON: the series it looks for, the metric's name as autoscalers know it, and the queries. Anything that the code does not
// take, or a key that it does not know, ends it.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	prom "sigs.k8s.io/prometheus-adapter/pkg/client"
	"sigs.k8s.io/prometheus-adapter/pkg/config"
	"sigs.k8s.io/prometheus-adapter/pkg/naming"
	"sigs.k8s.io/yaml"
)

// What the chart makes of its values; `rules.custom` becomes the adapter's own `rules`.
type values struct {
	Prometheus struct {
		URL  string `json:"url"`
		Port int    `json:"port"`
	} `json:"prometheus"`
	MetricsRelistInterval string `json:"metricsRelistInterval"`
	Rules                 struct {
		Default bool                   `json:"default"`
		Custom  []config.DiscoveryRule `json:"custom"`
	} `json:"rules"`
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	var given values
	if err := yaml.UnmarshalStrict(must(os.ReadFile(os.Args[1])), &given); err != nil {
		log.Fatal(err)
	}
	rendered := must(yaml.Marshal(map[string]any{"rules": given.Rules.Custom}))
	loaded := must(config.FromYAML(rendered))
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{{Version: "v1"}})
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, meta.RESTScopeRoot)
	pods := schema.GroupResource{Resource: "pods"}
	type asked struct {
		Adapter string        `json:"adapter"`
		Series  string        `json:"series"`
		Metric  string        `json:"metric"`
		One     prom.Selector `json:"one_pod"`
		Several prom.Selector `json:"several_pods"`
	}
	var all []asked
	for _, namer := range must(naming.NamersFromConfig(loaded.Rules, mapper)) {
		series := prom.Series{Name: "custom_queue_length", Labels: model.LabelSet{"namespace": "production", "pod": "longwave-dispatch-1"}}
		if left := namer.FilterSeries([]prom.Series{series}); len(left) != 1 {
			log.Fatal("the rule does not take its own series")
		}
		resources, namespaced := namer.ResourcesForSeries(series)
		if !namespaced || len(resources) == 0 {
			log.Fatal("the rule finds no pod in its series")
		}
		ask := func(names ...string) prom.Selector {
			return must(namer.QueryForSeries(series.Name, pods, "production", labels.Everything(), names...))
		}
		all = append(all, asked{
			os.Getenv("ADAPTER"), string(namer.Selector()), must(namer.MetricNameForSeries(series)),
			ask("longwave-dispatch-1"), ask("longwave-dispatch-1", "longwave-dispatch-2"),
		})
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	out.SetEscapeHTML(false)
	if err := out.Encode(all); err != nil {
		log.Fatal(err)
	}
}
