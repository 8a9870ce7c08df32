// Prints what a model predicts after each token of a list: one JSON line per position, with the best
// token and the two highest logits. Upstream llama.cpp's side of scripts/compare_logits.
//
//   reference-logits MODEL.gguf IDS.txt [THREADS]
//
// IDS.txt holds token ids separated by white space. They are evaluated as one batch from position 0,
// without a start token and without repacking of the weights.

#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

static void log_problems_only(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

int main(int argc, char ** argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL.gguf IDS.txt [THREADS]\n", argv[0]);
        return 2;
    }
    std::ifstream file(argv[2]);
    std::vector<llama_token> ids;
    for (llama_token id; file >> id;) {
        ids.push_back(id);
    }
    if (!file.eof() || ids.empty()) {
        fprintf(stderr, "error: %s: no list of token ids\n", argv[2]);
        return 1;
    }

    llama_log_set(log_problems_only, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers    = 0;
    model_params.use_extra_bufts = false;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        return 1;
    }

    const int32_t n_ids = (int32_t) ids.size();
    llama_context_params context_params = llama_context_default_params();
    context_params.n_ctx           = n_ids;
    context_params.n_batch         = n_ids;
    context_params.n_ubatch        = std::min(n_ids, 512);
    context_params.n_threads       = argc > 3 ? atoi(argv[3]) : 2;
    context_params.n_threads_batch = context_params.n_threads;
    llama_context * context = llama_init_from_model(model, context_params);
    if (!context) {
        return 1;
    }

    llama_batch batch = llama_batch_init(n_ids, 0, 1);
    batch.n_tokens = n_ids;
    for (int32_t i = 0; i < n_ids; i++) {
        batch.token[i]     = ids[i];
        batch.pos[i]       = i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = true;
    }
    if (llama_decode(context, batch) != 0) {
        fprintf(stderr, "error: llama_decode failed\n");
        return 1;
    }

    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (int32_t i = 0; i < n_ids; i++) {
        const float * logits = llama_get_logits_ith(context, i);
        int32_t best = 0;
        float second = -INFINITY;
        for (int32_t id = 1; id < n_vocab; id++) {
            if (logits[id] > logits[best]) {
                second = logits[best];
                best   = id;
            } else {
                second = std::max(second, logits[id]);
            }
        }
        printf("{\"position\":%d,\"token\":%d,\"top1\":%d,\"top1_logit\":%.9g,\"top2_logit\":%.9g}\n", i, ids[i], best,
               logits[best], second);
    }

    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
